package profiles

import (
	"fmt"
	"strings"
)

const maxName = 64

// NameError says why a text cannot be the name of a profile.
type NameError struct {
	Name   string
	Reason string // as "must not …"
}

func (e *NameError) Error() string {
	return fmt.Sprintf("profile name %s %s", shown(e.Name), e.Reason)
}

// CheckName returns a *NameError unless name can be a profile's: 1 to 64 ASCII letters, digits, ".", "_" and "-",
// beginning with a letter, digit or "_", on every system the same, so that a folder can be carried from one to
// another. Such a name is one file in the folder and leads nowhere else.
func CheckName(name string) error {
	if reason := badName(name); reason != "" {
		return &NameError{Name: name, Reason: reason}
	}
	return nil
}

func badName(name string) string {
	switch {
	case name == "":
		return "must not be empty"
	case len(name) > maxName:
		return fmt.Sprintf("must not be longer than %d letters", maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return !nameRune(r) }):
		return `may have letters, digits, ".", "_" and "-" only`
	case name[0] == '.' || name[0] == '-':
		return `must not begin with "." or "-"`
	case strings.Contains(name, "..") || strings.HasSuffix(name, "."):
		return `must not have ".." in it or "." at its end`
	}
	lower := strings.ToLower(name)
	switch {
	case lower == "local":
		return "is reserved: it means this machine"
	case lower == "demo":
		return "is reserved: it means the box of rlca demo"
	case strings.HasSuffix(lower, suffix):
		return "must not end in " + suffix + ": the file's name gets that by itself"
	case isDevice(lower):
		return "is a device on Windows"
	}
	return ""
}

func nameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

// isDevice reports names that Windows keeps for devices, with or without an extension (Microsoft, "Naming Files,
// Paths, and Namespaces").
func isDevice(lower string) bool {
	stem, _, _ := strings.Cut(lower, ".")
	switch stem {
	case "con", "prn", "aux", "nul":
		return true
	}
	return len(stem) == 4 && (stem[:3] == "com" || stem[:3] == "lpt") && stem[3] >= '0' && stem[3] <= '9'
}
