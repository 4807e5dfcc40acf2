package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"rlca/internal/fit"
	"rlca/internal/instance"
	"rlca/profiles"
	"rlca/tunnel"
)

// Completion asks nothing that could take long: profiles, ssh_config, the background process. What cannot be read
// completes nothing, without a word, as the user is in the midst of a line.

// completions says what the shell may offer for the verbs' words.
func (a *app) completions(root *cobra.Command) {
	first := func(names func() []string) cobra.CompletionFunc {
		return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return names(), cobra.ShellCompDirectiveNoFileComp
		}
	}
	words := map[string]cobra.CompletionFunc{
		"disconnect": first(a.connectedNames), "status": first(a.connectedNames), "logs": first(a.connectedNames), "use": first(a.connectedNames),
		"profile edit": first(a.profileNames), "profile remove": first(a.profileNames),
		"env": func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return append(a.connectedNames(), byEnv()...), cobra.ShellCompDirectiveNoFileComp
			case 1:
				return byEnv(), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	for _, verb := range []string{"connect", "probe", "fit", "plan", "models", "models pull", "models rm", "doctor", "trust", "profile show"} {
		words[verb] = first(a.hostNames)
	}
	for path, f := range words {
		c, _, err := root.Find(strings.Fields(path))
		if err != nil || c.Name() != path[strings.LastIndexByte(path, ' ')+1:] {
			panic("no verb " + path) // a verb that was renamed
		}
		c.ValidArgs, c.ValidArgsFunction = nil, f
	}
	flags := map[string]func() []string{
		"host": a.readyNames, "model": a.catalogNames,
		"engine": func() []string { return []string{"auto", "ollama", "llama-server", "vllm", "none"} },
		"shell":  func() []string { return []string{"sh", "fish", "powershell"} },
	}
	for _, verb := range root.Commands() {
		for _, c := range append(verb.Commands(), verb) {
			for name, f := range flags {
				if c.Flags().Lookup(name) == nil {
					continue
				}
				if name == "model" && c.Flags().Lookup("host") != nil { // of what runs already
					f = a.loadedNames
				}
				c.RegisterFlagCompletionFunc(name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
					return f(), cobra.ShellCompDirectiveNoFileComp
				})
			}
		}
	}
}

// hostNames are all hosts that have a name here.
func (a *app) hostNames() []string {
	names := append(a.profileNames(), a.connectedNames()...)
	names = append(names, tunnel.ConfigHosts(tunnel.Options{ConfigFile: a.sshConfig})...)
	return distinct(append(names, instance.Local))
}

// readyNames are the hosts that launch and wire can lead to.
func (a *app) readyNames() []string { return distinct(append(a.connectedNames(), a.profileNames()...)) }

func (a *app) profileNames() []string {
	dir, err := a.profiles()
	if err != nil {
		return nil
	}
	list, _ := dir.List()
	var names []string
	for _, e := range list {
		if profiles.CheckName(e.Name) == nil {
			names = append(names, e.Name)
		}
	}
	return names
}

func (a *app) connectedNames() []string {
	st, _ := a.hosts(nil)
	var names []string
	for _, h := range st.Hosts {
		names = append(names, h.Name)
	}
	return names
}

// loadedNames are the models of the connected hosts.
func (a *app) loadedNames() []string {
	st, _ := a.hosts(nil)
	var names []string
	for _, h := range st.Hosts {
		if h.Model != nil {
			names = append(names, h.Model.Name)
		}
	}
	return distinct(names)
}

// catalogNames are the models that rlca and the user's own file know, by the name that Ollama has for them, if it has one.
func (a *app) catalogNames() []string {
	list, err := fit.LoadCatalog(a.catalog())
	if err != nil {
		list = nil
	}
	var names []string
	for _, m := range list.Models() {
		names = append(names, cmp.Or(m.Tag, m.Name))
	}
	return distinct(names)
}

// distinct sorts names and leaves out what comes twice.
func distinct(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
