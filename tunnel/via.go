package tunnel

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"

	"golang.org/x/crypto/ssh"
)

// onlyOpenSSH says what ssh_config asks for that only the user's own ssh can do; empty if there is nothing.
func (t *Target) onlyOpenSSH() string {
	switch {
	case t.KnownHostsCommand != "":
		return "KnownHostsCommand"
	case t.PKCS11Provider != "":
		return "PKCS11Provider"
	}
	return ""
}

// unlocks says what the user's own ssh may log in with after our own login was refused, although we could not even try
// it; empty if there is nothing. Whatever was tried is not tried again for it.
func (t *Target) unlocks(err error) string {
	var auth *AuthError
	if !errors.As(err, &auth) {
		return ""
	}
	if slices.Contains(auth.Methods, "gssapi-with-mic") && t.GSSAPI && hasTicket() {
		return "a Kerberos ticket"
	}
	if slices.Contains(auth.Methods, methodKey) && slices.ContainsFunc(t.IdentityFiles, onToken) {
		return "a key on a token"
	}
	return ""
}

// hasTicket reports whether there may be a Kerberos ticket of this user's.
func hasTicket() bool {
	if os.Getenv("KRB5CCNAME") != "" {
		return true
	}
	_, err := os.Stat("/tmp/krb5cc_" + strconv.Itoa(os.Getuid()))
	return err == nil
}

// onToken reports whether a key file holds only the handle of a key on a FIDO token.
func onToken(path string) bool {
	pub := readPublic(path + ".pub")
	if pub == nil || pub.Type() != ssh.KeyAlgoSKED25519 && pub.Type() != ssh.KeyAlgoSKECDSA256 {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}

// throughSSH reaches a target with the user's own ssh, for what we cannot do ourselves. native is why; nil if that was
// known before.
func (d *Dialer) throughSSH(ctx context.Context, t *Target, why string, native error) (*Client, error) {
	o, err := masterFor(t, d.Options, d.AcceptNew)
	if err != nil {
		if native != nil {
			return nil, native // there is no ssh to go on with
		}
		var config *ConfigError
		if errors.As(err, &config) {
			config.Msg = why + " of ssh_config needs the ssh program: " + config.Msg
		}
		return nil, err
	}
	d.log().Info("the user's own ssh takes over", "host", t.Host, "why", why)
	m, err := startMaster(ctx, o, d.log())
	if err != nil {
		return nil, err
	}
	c, err := d.onMaster(ctx, t, m)
	if err != nil {
		m.Close()
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.masters == nil {
		d.masters = map[string]string{}
	}
	d.masters[t.Addr()] = why
	return c, nil
}

// onMaster makes the client of a master that is up.
func (d *Dialer) onMaster(ctx context.Context, t *Target, m *master) (*Client, error) {
	conn, err := m.dial(ctx)
	if err == nil {
		w := newWire(conn, func() {})
		sc, chans, reqs, shake := m.handshake(ctx, w)
		if err = shake; err == nil {
			return newClient(ctx, d, t, w, nil, m, sc, chans, reqs)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, &DialError{Op: "login", Addr: t.Addr(), Reason: "the socket of ssh: " + reason(err), Err: err}
}

// viaSSH says why this target goes through the user's own ssh, if that was found out before.
func (d *Dialer) viaSSH(t *Target) string {
	if why := t.onlyOpenSSH(); why != "" {
		return why
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.masters[t.Addr()]
}
