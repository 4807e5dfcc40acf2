package tunnel

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// How long an agent may take: to tell its keys, and to sign, for which a person may have to touch a key or to agree.
const (
	agentListLimit = 5 * time.Second
	agentSignLimit = 60 * time.Second
)

// agentKey is a key that an agent holds.
type agentKey struct {
	pub     ssh.PublicKey
	comment string
	signer  ssh.AlgorithmSigner
}

// agentConn is one conversation with an agent, for one login: an agent may be restarted or locked between two.
type agentConn struct {
	rw     io.ReadWriteCloser
	client agent.ExtendedAgent
}

// agentAddress says where the agent is; empty means that there is none. inherited says that nobody named it.
func agentAddress(identityAgent, socket string) (addr string, inherited bool) {
	switch {
	case strings.EqualFold(identityAgent, "none"):
		return "", false
	case identityAgent == "", identityAgent == "SSH_AUTH_SOCK":
		addr, inherited = socket, true
		if addr == "" {
			addr = os.Getenv("SSH_AUTH_SOCK")
		}
		if addr == "" && runtime.GOOS == "windows" {
			addr = `\\.\pipe\openssh-ssh-agent`
		}
		return addr, inherited
	case identityAgent[0] == '$':
		return os.Getenv(strings.Trim(identityAgent[1:], "{}")), false
	}
	return identityAgent, false
}

// openAgent connects to the agent at addr.
func openAgent(ctx context.Context, addr string) (*agentConn, error) {
	ctx, cancel := context.WithTimeout(ctx, agentListLimit)
	defer cancel()
	rw, err := dialAgent(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &agentConn{rw: rw, client: agent.NewClient(rw)}, nil
}

// errSlowAgent says that an agent did not answer in time. It is not asked again.
var errSlowAgent = errors.New("it does not answer")

// within gives f, which talks to the agent, a limit: closing the conversation is the only way to end a wait.
func (a *agentConn) within(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { a.rw.Close() })
	defer stop()
	err := f()
	if ctx.Err() != nil {
		return errSlowAgent
	}
	return err
}

// keys lists what the agent holds.
func (a *agentConn) keys(ctx context.Context) ([]agentKey, error) {
	var list []*agent.Key
	err := a.within(ctx, agentListLimit, func() (err error) {
		list, err = a.client.List()
		return err
	})
	if err != nil {
		return nil, err
	}
	var keys []agentKey
	for _, l := range list {
		// a key of a type that we do not know cannot be offered: the signature's algorithm would be a guess
		if pub, err := ssh.ParsePublicKey(l.Blob); err == nil {
			keys = append(keys, agentKey{pub: pub, comment: clean(l.Comment), signer: &agentSigner{a, ctx, pub}})
		}
	}
	return keys, nil
}

func (a *agentConn) close() { a.rw.Close() }

// agentSigner signs with a key that the agent holds, within a limit.
type agentSigner struct {
	agent *agentConn
	ctx   context.Context // of the login that this key is for
	pub   ssh.PublicKey
}

func (s *agentSigner) PublicKey() ssh.PublicKey { return s.pub }

func (s *agentSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, "")
}

func (s *agentSigner) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (sig *ssh.Signature, err error) {
	var flags agent.SignatureFlags
	switch algorithm {
	case ssh.KeyAlgoRSASHA256:
		flags = agent.SignatureFlagRsaSha256
	case ssh.KeyAlgoRSASHA512:
		flags = agent.SignatureFlagRsaSha512
	}
	err = s.agent.within(s.ctx, agentSignLimit, func() (err error) {
		sig, err = s.agent.client.SignWithFlags(s.pub, data, flags)
		return err
	})
	return sig, err
}
