package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Limits of asking ssh. It runs the commands of Match exec, which may hang.
const (
	askLimit  = 5 * time.Second
	maxAnswer = 1 << 20
)

// findSSH returns the ssh program, or empty if there is none to be asked.
func findSSH(program string) (string, error) {
	switch program {
	case "none":
		return "", nil
	case "":
		path, err := exec.LookPath("ssh")
		if err != nil {
			return "", nil
		}
		return path, nil
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("the ssh program %s cannot be run: %w", program, errors.Unwrap(err))
	}
	return path, nil
}

// askSSH runs `ssh -G`, which prints the final value of everything, as the user's own ssh would use it. A
// configuration that ssh refuses is refused with ssh's words. A nil Target says that this ssh cannot be asked.
func askSSH(ctx context.Context, program, host, userName string, port int, o Options) (*Target, error) {
	args := []string{"-G"}
	if o.ConfigFile != "" {
		args = append(args, "-F", o.ConfigFile)
	}
	if userName != "" {
		args = append(args, "-l", userName)
	}
	if port != 0 {
		args = append(args, "-p", strconv.Itoa(port))
	}
	limited, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	cmd := exec.CommandContext(limited, program, append(args, "--", host)...)
	cmd.WaitDelay = time.Second
	ownGroup(cmd) // a command of Match exec ends with it
	out, errs := &capped{n: maxAnswer}, &capped{n: 4 << 10, tail: true}
	cmd.Stdout, cmd.Stderr = out, errs
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if limited.Err() != nil {
		return nil, &ConfigError{Host: host, Msg: fmt.Sprintf("ssh -G %s gave no answer within %.0f s: a Match exec in ssh_config may hang", host, askLimit.Seconds())}
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		said := sshWords(errs.bytes())
		if strings.Contains(said, "option -- G") { // before OpenSSH 6.8
			return nil, nil
		}
		if said == "" {
			said = fmt.Sprintf("ssh -G %s: %v", host, err)
		}
		return nil, &ConfigError{Host: host, Msg: said}
	}
	t := parseDump(host, out.bytes())
	return t, nil
}

// sshWords is what ssh said of the trouble, without its remark on terminals.
func sshWords(stderr []byte) string {
	var keep []string
	for _, line := range strings.Split(string(stderr), "\n") {
		if line = clean(line); line != "" && !strings.HasPrefix(line, "Pseudo-terminal") && !strings.HasPrefix(line, "usage:") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "; ")
}

// parseDump takes the lines of `ssh -G`. Lines that it cannot use are passed over.
func parseDump(host string, dump []byte) *Target {
	t := &Target{Source: "openssh", From: map[string]string{}, HostName: host}
	for line := range bytes.Lines(dump) {
		key, val, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
		key = strings.ToLower(key)
		args := []string{unquote(val)}
		switch key {
		case "userknownhostsfile", "globalknownhostsfile":
			args = splitFiles(val, exists)
		}
		if problem := t.set(key, args); problem != "" && val != "" {
			t.Warnings = append(t.Warnings, fmt.Sprintf("ssh -G: %s %s %s", key, clean(val), problem))
		}
	}
	for _, k := range resolvedKeys {
		t.From[k] = "ssh -G"
	}
	return t
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// splitFiles takes apart a list of files that ssh -G joins with spaces, although a name may have spaces in it: a new
// name begins where a path can begin, unless the longer name is one that is there.
func splitFiles(s string, there func(string) bool) []string {
	if strings.Contains(s, `"`) {
		if args, err := splitArgs(s); err == nil {
			return args
		}
	}
	var out []string
	for _, word := range strings.Fields(s) {
		if len(out) > 0 {
			longer := out[len(out)-1] + " " + word
			if there(longer) || !pathStart(word) && !there(word) {
				out[len(out)-1] = longer
				continue
			}
		}
		out = append(out, word)
	}
	return out
}

// pathStart reports whether a word begins as a whole path does: /x, ~/x, C:\x, \\x, none.
func pathStart(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, "~") || strings.HasPrefix(s, `\\`) || len(s) > 2 && s[1] == ':' || strings.EqualFold(s, "none")
}
