package remote

// hubCache are the shell functions that find the cache of the Hugging Face hub of the account, which all engines share.
// It goes before the scripts that need it; it has no percent sign, so that some may be formats.
const hubCache = `
# plain NAME: v is what a plain line of a shell file gives it, which a bare SSH command does not read
plain() {
  v=$(for f in .profile .bash_profile .bashrc .zshenv .zprofile .zshrc; do
    [ -r "$HOME/$f" ] && sed -n "s/^[[:space:]]*\(export[[:space:]][[:space:]]*\)\{0,1\}$1=[\"']\{0,1\}\([^\"'; ]*\).*/\2/p" "$HOME/$f" 2>/dev/null
  done | tail -n 1)
}
# folder NAME: the same, if it is a path
folder() {
  plain "$1"
  case $v in '~/'*|'$HOME/'*|'${HOME}/'*) v=$HOME/${v#*/};; esac
  case $v in *'$'*|*'` + "`" + `'*) v=;; /*) ;; *) v=;; esac
}
# find_hub: hub is the folder with models--ORG--NAME
find_hub() {
  hub=${HF_HUB_CACHE:-$HUGGINGFACE_HUB_CACHE} v=$HF_HOME
  [ -n "$hub$v" ] || { folder HF_HUB_CACHE; hub=$v; folder HF_HOME; }
  [ -n "$hub" ] || hub=${v:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub
  case $hub in "~/"*) hub=$HOME/${hub#"~/"};; esac
}
`
