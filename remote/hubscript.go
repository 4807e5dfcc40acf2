package remote

import "strings"

// assign gives values to variables of the shell, ahead of a script: NAME, value, NAME, value …
func assign(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		b.WriteString(pairs[i] + "=" + quote(pairs[i+1]) + "\n")
	}
	return b.String()
}

// hubShell are the functions that the question to the hub and the download share.
//
// The bytes are fetched by curl, which nearly every box has, and where it is missing by the python3 that vLLM cannot be
// without. The hub's own program hf is not used although it knows more ways: what it resumes, where it shows how far it
// is, and whether an exit status of 0 means that all is there has changed from version to version, and a download that
// is believed because each file has its size and its checksum has to be one and the same on every box.
//
// A token is in no argument and no environment of a process that is started here, and in no file for longer than a job
// needs to begin: it reaches curl through a pipe from the shell's own echo. Neither curl nor python3 sends it on to
// another host than the hub; a curl that would, before 7.58, gets none.
var hubShell = "py=" + quote(hubPython) + "\n" + hubCache + `
size() {
  s=$(ls -lnL "$1" 2>/dev/null | { read -r a b c d s e; printf '%s' "$s"; })
  case $s in ''|*[!0-9]*) s=0;; esac
}
frame() { printf '\n%s raw:%s=*\n' "$N" "$1"; }
# boxtoken: the one that the account has of its own
boxtoken() {
  key=${HF_TOKEN:-$HUGGING_FACE_HUB_TOKEN}
  [ -n "$key" ] || { plain HF_TOKEN; key=$v; }
  if [ -z "$key" ]; then
    f=$HF_TOKEN_PATH v=$HF_HOME
    [ -n "$f$v" ] || folder HF_HOME
    [ -n "$f" ] || f=${v:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/token
    [ ! -r "$f" ] || read -r key < "$f"
  fi
  case $key in *[!A-Za-z0-9._~+/=-]*) key=;; esac
}
# tools: what there is to fetch with
tools() {
  python= old= curl=$(command -v curl)
  [ -n "$curl" ] || python=$(command -v python3)
  [ -n "$curl$python" ] || return 1
  [ -z "$curl" ] || case $("$curl" --version 2>/dev/null | head -n 1) in
  'curl 7.'[0-9].*|'curl 7.'[1-4][0-9].*|'curl 7.5'[0-7].*) old=1 key=;;
  esac
}
bearer() { [ -z "$key" ] || echo "header = \"Authorization: Bearer $key\""; }
# transfer URL FILE BLOCKS SECONDS: what the hub has there, from where FILE ends, at most so much and so long
transfer() {
  ulimit -f "$3" 2>/dev/null
  if [ -n "$curl" ]; then
    bearer | "$curl" -K - -sS -f -g -L --max-redirs 8 --proto "=$proto" --proto-redir "=$proto" --connect-timeout 20 \
      --speed-limit 1 --speed-time "$stall" --max-time "$4" -C - -D - -o "$2" -w '\nrlca-end %{http_code}\n' "$1"
  else
    bearer | "$python" -c "$py" "$1" "$2" "$proto" "$stall"
  fi
}
# get, with the same: sets rc, code, reason, after, why
get() {
  said=$(transfer "$@" 2>&1 | tr -d '\r' | cut -c 1-500; echo)
  pick() { printf '%s\n' "$said" | sed -n "$1" | tail -n 1; }
  code=$(pick 's/^rlca-end \([0-9]*\).*/\1/p')
  rc=$(pick 's/^curl: (\([0-9]*\)).*/\1/p')
  reason=$(pick 's/^[Xx]-[Ee]rror-[Cc]ode: *\([A-Za-z]*\).*/\1/p')
  after=$(pick 's/^[Rr]etry-[Aa]fter: *\([0-9][0-9]*\).*/\1/p')
  why=$(pick 's/^curl: ([0-9]*) //p')
  # A transfer that was ended from outside has no last word.
  [ -n "$rc" ] || { [ -n "$code" ] && rc=0 || rc=99; }
  case $rc:$code in 0:2??) code=200;; esac
  # A token that is no good is refused even for what is public.
  if [ "$code" = 401 ] && [ -n "$key" ]; then key=; get "$@"; fi
}
# judge: the class of an ending that no other try will change, else empty
judge() {
  class=
  case $rc in
  1|51|60|77|83|90|91) class=tls;;
  23) case $why in
    *oo' 'large*) ;;
    *ermission*|*ead-only*) class=permission;;
    *) class=space;;
    esac;;
  2|3|47) class=other;;
  22) case $code in
    401|403) class=auth; [ "$reason" != RepoNotFound ] || class=name;;
    404|410) class=name;;
    408|416|425|429) ;;
    4??) class=other;;
    esac;;
  esac
}
`

// keepScript makes an empty file in our folder, which another laptop may be about to remove, because it is empty.
const keepScript = `
keep() {
  t=0
  until why=$( (umask 077; mkdir -p "$D" && chmod 700 "$D" && : > "$1") 2>&1); do
    t=$((t+1)); [ $t -lt 10 ] || return 1
    nap
  done
}
`

// hubPython does for transfer what curl does, in curl's words.
const hubPython = `import http.client, os, socket, ssl, sys, urllib.error, urllib.parse, urllib.request
url, out, proto, stall = sys.argv[1:5]
auth = "".join(sys.stdin.read().split('"')[1:2]).partition(": ")[2]
code = 0
def leave(rc, why):
    print("\nrlca-end %03d" % code)
    if rc: print("curl: (%d) %s" % (rc, why))
    sys.stdout.flush()
    os._exit(rc)
def tell(headers):
    for k in ("Retry-After", "X-Error-Code"):
        if headers.get(k): print("%s: %s" % (k, headers[k]))
class Sent(urllib.request.HTTPRedirectHandler):
    max_redirections = 8
    def redirect_request(self, req, fp, status, msg, headers, new):
        a, b = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(new)
        if b.scheme not in proto.split(","): leave(1, "sent on to what is not " + proto)
        to = super().redirect_request(req, fp, 302 if status == 308 else status, msg, headers, new)
        if to and auth and a[:2] == b[:2]: to.add_unredirected_header("Authorization", auth)
        return to
    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302
try:
    have = os.path.getsize(out) if os.path.exists(out) else 0
    req = urllib.request.Request(url, headers={"User-Agent": "curl"})
    if have: req.add_header("Range", "bytes=%d-" % have)
    if auth: req.add_unredirected_header("Authorization", auth)
    r = urllib.request.build_opener(Sent).open(req, timeout=float(stall))
    code = r.status
    if have and code != 206: leave(33, "cannot resume")
    want = r.headers.get("Content-Length")
    try: f = open(out, "ab", 0)
    except OSError as e: leave(23, str(e))
    came = 0
    while True:
        b = r.read1(1 << 18)
        if not b: break
        came += len(b)
        while b:
            try: b = b[f.write(b):]
            except OSError as e: leave(23, str(e))
    if want and came < int(want): leave(18, "transfer closed with bytes missing")
    leave(0, "")
except urllib.error.HTTPError as e:
    code = e.code
    tell(e.headers)
    leave(47 if 300 <= code < 400 else 22, "The requested URL returned error: %d" % code)
except urllib.error.URLError as e:
    e = e.reason
    if isinstance(e, ssl.SSLCertVerificationError): leave(60, str(e))
    if isinstance(e, socket.gaierror): leave(6, "Could not resolve host")
    leave(28 if isinstance(e, socket.timeout) else 7, str(e))
except socket.timeout: leave(28, "Operation too slow")
except (OSError, http.client.HTTPException) as e: leave(56, str(e))
`

// hubLook finds a download that runs, or asks the hub for the files of a repository and looks what of them is there.
// name, mark, key, folder, ask, most and packed are set ahead of it.
const hubLook = keepScript + `
if record "$name" && mine; then say alive "$M"; return; fi
[ -n "$key" ] || boxtoken
tools || { say notool 1; return; }
[ -z "$old" ] || say old 1
find_hub
repo=$hub/$folder
frame cache; printf '%s' "$repo"
endpoint=$HF_ENDPOINT
[ -n "$endpoint" ] || { plain HF_ENDPOINT; endpoint=$v; }
endpoint=${endpoint:-https://huggingface.co} endpoint=${endpoint%/}
case $endpoint in
*[!A-Za-z0-9._~:/%-]*) say badendpoint "$endpoint"; return;;
https://*) proto=https;;
http://127.0.0.1|http://127.0.0.1[:/]*|http://localhost|http://localhost[:/]*) proto=http,https;;
*) say badendpoint "$endpoint"; return;;
esac
say endpoint "$endpoint"; say proto "$proto"
p=$repo
while [ -n "$p" ] && [ ! -d "$p" ]; do p=${p%/*}; done
say df "$(df -Pk "${p:-/}" 2>/dev/null | tail -n 1)"
frame disk; printf '%s' "${p:-/}"
[ ! -d "$repo/blobs" ] || { frame blobs; ls -lnA "$repo/blobs" 2>/dev/null | head -c 1000000; }
hold=$D/$name.$mark.hold got=$D/$name.$mark.got
keep "$hold" || { say error "$why"; return; }
trap 'rm -f "$got" "$hold"; rmdir "$D" 2>/dev/null; :' EXIT; trap 'exit 1' HUP INT TERM
stall=20
get "$endpoint$ask" "$got" $((most/512)) 40
judge
say code "$code"; say rc "$rc"; say reason "$reason"; say after "$after"; say why "$why"; say class "$class"
if [ "$rc" = 0 ] && [ "$code" = 200 ]; then
  if command -v gzip >/dev/null 2>&1; then frame gz; gzip -1 -c "$got" 2>/dev/null | head -c "$packed"
  else frame head; head -c "$packed" "$got"; fi
fi
trap - EXIT HUP INT TERM
rm -f "$got" "$hold"
` + tidyScript

// hubStage leaves on the box what a download needs to begin: its list, and the token that was given, if one was. name,
// mark, key and repo are set ahead of it; the list is the second word of the format, the first is what ends it. What an
// earlier one left that never began is removed.
const hubStage = keepScript + `
why=$(mkdir -p "$repo/blobs" "$repo/snapshots" 2>&1) || { say denied "$why"; return; }
for d in blobs snapshots; do [ -w "$repo/$d" ] || { say denied "this account may not write to $repo/$d"; return; }; done
keep "$D/$name.$mark.list" || { say denied "$why"; return; }
u=$(umask); umask 077
find "$D" -name 'hub-*.rlca*' -mmin +10 -exec rm -f {} \;
cat > "$D/$name.$mark.list" <<'%[1]s'
%[2]s%[1]s
[ -z "$key" ] || echo "$key" > "$D/$name.$mark.key"
umask "$u"
say staged "$(($(wc -c < "$D/$name.$mark.list")))"
`

// hubLoop is the download. It runs on the box, detached, after hubShell: $1 is its name, $2 the mark of its launch, $3
// after how many seconds without a byte a transfer is begun again. Four files come at a time. It tells its log the list
// first, then
//
//	have ETAG · done ETAG                a file is there, or has come
//	again ETAG CODE SECONDS WHY          a transfer ended and will be tried again
//	end CLASS CODE REASON WHY            for good, not all is there
//	success
//
// It believes a file that has the size which the hub says, and the checksum, and itself done when every name leads to
// such a file. Names are given at the end: nobody finds half a model. A full disk cannot take a last word, but a name.
// A day without a byte is the end: nobody may be there any more who would stop it.
const hubLoop = `
LC_ALL=C; export LC_ALL
n=$1 m=$2 stall=$3 D=$HOME/.rlca list=$HOME/.rlca/$1.list
key=
[ ! -r "$D/$n.$m.key" ] || { read -r key < "$D/$n.$m.key"; rm -f "$D/$n.$m.key"; }
[ -n "$key" ] || boxtoken
code=0 reason=- pids=
fail() {
  [ "$1" != space ] || : > "$D/$n.full"
  printf '%s\n' "end $1 ${code:-0} ${reason:--} $2" || : > "$D/$n.full"
  return 1
}
over() { [ -e "$D/$n.full" ] || grep -q '^end ' "$D/$n.log" 2>/dev/null; }
mv -f "$D/$n.$m.list" "$list" || { fail gone "its list is gone"; exit 1; }
trap 'rm -f "$list"' EXIT; trap 'exit 1' HUP INT TERM
tools || { fail other "there is neither curl nor python3 to download with"; exit 1; }
ref=
while read -r word rest; do
  case $word in cache) repo=$rest;; commit) commit=$rest;; base) base=$rest;; proto) proto=$rest;; ref) ref=$rest;; esac
done < "$list"
cat "$list" || { : > "$D/$n.full"; exit 1; }
sound() {
  case $check in
  all:*) ;;
  pieces:*) [ -n "$pieces" ] || return 0;;
  *) return 0;;
  esac
  sum=$(sha256sum < "$part" 2>/dev/null) || sum=$(shasum -a 256 < "$part" 2>/dev/null) || return 0
  [ "${sum%% *}" = "${check#*:}" ]
}
one() {
  blob=$repo/blobs/$etag part=$repo/blobs/$etag.$n.incomplete bad=0 pause=1 pieces=
  size "$blob"
  if [ -f "$blob" ] && [ "$s" = "$size" ]; then echo "have $etag"; return 0; fi
  size "$part"; [ "$s" = 0 ] || pieces=1
  since=$(date +%s)
  while :; do
    ! over || return 1
    size "$part"; had=$s rc=0 why=
    if [ "$size" = 0 ]; then : > "$part"; code=200
    elif [ "$had" != "$size" ]; then get "$base/$path" "$part" "$blocks" 0; size "$part"; fi
    judge
    if [ "$s" = "$size" ] && [ -f "$part" ]; then
      if sound; then
        w=$(mv -f "$part" "$blob" 2>&1) || { fail permission "$w"; return 1; }
        echo "done $etag"
        return 0
      fi
      rm -f "$part"; bad=$((bad+1)) pieces= why="what came of $path has another checksum than the hub says"
    elif [ -n "$class" ]; then fail "$class" "$why"; return 1
    elif [ "$s" -gt "$size" ] || [ "$rc" = 0 ]; then
      why="$path came with $s bytes, and the hub says $size"
      bad=$((bad+1))
      [ "$s" -lt "$size" ] || rm -f "$part"
    elif [ "$rc" = 33 ] || [ "$code" = 416 ]; then rm -f "$part"
    fi
    [ $bad -lt 3 ] || { fail other "$why"; return 1; }
    if [ "$s" != "$had" ]; then pause=1 pieces=1 since=$(date +%s); fi
    [ $(($(date +%s)-since)) -lt 86400 ] || { fail network "$why"; return 1; }
    wait=$pause
    case $after in ''|*[!0-9]*|??????*) ;; *) [ "$after" -le "$wait" ] || wait=$after; [ $wait -le 600 ] || wait=600;; esac
    printf '%s\n' "again $etag ${code:-0} $wait $why"
    sleep $wait
    pause=$((pause*2)); [ $pause -le 60 ] || pause=60
  done
}
work() {
  i=0
  while read -r word size etag check blocks path; do
    [ "$word" = blob ] || continue
    i=$(((i+1)%4))
    [ $i = $1 ] || continue
    one || return 1
  done < "$list"
}
for k in 1 2 3 0; do work $k & pids="$pids $!"; done
bad=
for p in $pids; do wait $p || bad=1; done
if [ -n "$bad" ]; then over || fail other "a part of it was ended"; exit 1; fi
snap=$repo/snapshots/$commit code=0 reason=-
while read -r word size etag name; do
  [ "$word" = link ] || continue
  size "$snap/$name"
  [ ! -f "$snap/$name" ] || [ "$s" != "$size" ] || continue
  up=../../ rest=$name dir=$snap
  while :; do case $rest in */*) up=../$up rest=${rest#*/};; *) break;; esac; done
  case $name in */*) dir=$snap/${name%/*};; esac
  why=$(mkdir -p "$dir" 2>&1 && ln -sfn "${up}blobs/$etag" "$snap/$name" 2>&1) || { fail permission "$why"; exit 1; }
done < "$list"
while read -r word size etag name; do
  [ "$word" = link ] || continue
  size "$snap/$name"
  [ -f "$snap/$name" ] && [ "$s" = "$size" ] || { fail other "$name has $s bytes in the cache, and the hub says $size"; exit 1; }
done < "$list"
if [ -n "$ref" ]; then
  f=$repo/refs/$ref
  why=$({ mkdir -p "${f%/*}" && printf '%s' "$commit" > "$f.$n.new" && mv -f "$f.$n.new" "$f"; } 2>&1) || { fail permission "$why"; exit 1; }
fi
echo success
`

// hubTail says whether the download runs, what it wrote from an offset on, and how large the unfinished files are: these
// first, so that none is missed that is finished in between. name, from, most and cache are set ahead of it.
const hubTail = `
f=$D/$name.log
record "$name" && mine && say alive 1
[ -e "$D/$name.full" ] && say full 1
[ -z "$cache" ] || { printf '\n%s raw:parts=*\n' "$N"; ls -ln "$cache"/blobs/*."$name".incomplete 2>/dev/null | head -c 65536; }
say tail 1
[ -r "$f" ] || return
c=$(($(wc -c < "$f") - from))
if [ $c -lt 0 ]; then say shrunk 1; return; fi
[ $c -le "$most" ] || c=$most
[ $c -gt 0 ] || return
printf '\n%s raw:new=%s\n' "$N" $c; tail -c +$((from+1)) "$f" | head -c $c
`
