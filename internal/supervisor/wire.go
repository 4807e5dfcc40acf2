package supervisor

import (
	"encoding/json"
	"errors"

	"rlca/internal/fit"
	"rlca/internal/instance"
	"rlca/remote"
	"rlca/tunnel"
)

// reply is one line of the answer to connect: an event while the walk goes on, and last an error or the status.
type reply struct {
	Event   *instance.Event  `json:"event,omitempty"`
	Error   *wireError       `json:"error,omitempty"`
	Status  *instance.Status `json:"status,omitempty"`
	Already bool             `json:"already,omitempty"`
}

// wireError carries an error over the socket so that errors.As finds the same type on the other side.
type wireError struct {
	Message string          `json:"message"`
	Kind    string          `json:"kind,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// kind is one type of error that somebody above decides by.
type kind struct {
	name string
	find func(error) error
	make func(json.RawMessage) error
}

func kindOf[T any, P interface {
	*T
	error
}](name string) kind {
	return kind{
		name: name,
		find: func(err error) error {
			var e P
			if errors.As(err, &e) {
				return e
			}
			return nil
		},
		make: func(data json.RawMessage) error {
			e := P(new(T))
			if json.Unmarshal(data, e) != nil {
				return nil
			}
			return e
		},
	}
}

// kinds are looked through in this order: the outer types first where one wraps another.
var kinds = []kind{
	kindOf[instance.CancelledError]("cancelled"),
	kindOf[PortInUseError]("port_in_use"),
	kindOf[StateError]("state"),
	kindOf[tunnel.UnknownHostKeyError]("unknown_host_key"),
	kindOf[tunnel.ChangedHostKeyError]("changed_host_key"),
	kindOf[tunnel.RevokedHostKeyError]("revoked_host_key"),
	kindOf[tunnel.PassphraseError]("passphrase"),
	kindOf[tunnel.OpenSSHError]("openssh"),
	kindOf[tunnel.SecretError]("secret"),
	kindOf[tunnel.AuthError]("auth"),
	kindOf[tunnel.ConfigError]("config"),
	kindOf[tunnel.NoShellError]("no_shell"),
	kindOf[tunnel.RefusedError]("refused"),
	kindOf[tunnel.PortTakenError]("port_taken"),
	kindOf[tunnel.DialError]("dial"),
	kindOf[fit.ShortfallError]("shortfall"),
	kindOf[fit.UnknownModelError]("unknown_model"),
	kindOf[remote.NotInstalledError]("not_installed"),
	kindOf[remote.ModelMissingError]("model_missing"),
	kindOf[remote.PullError]("pull"),
	kindOf[remote.ServesOtherError]("serves_other"),
	kindOf[remote.InUseError]("in_use"),
	kindOf[remote.ClusterError]("cluster"),
	kindOf[remote.StartError]("start"),
}

func toWire(err error) *wireError {
	w := &wireError{Message: err.Error()}
	for _, k := range kinds {
		if e := k.find(err); e != nil {
			if data, err := json.Marshal(e); err == nil {
				w.Kind, w.Data = k.name, data
			}
			break
		}
	}
	return w
}

// err returns the error as it was on the other side: the same words, and the same type inside.
func (w *wireError) err() error {
	e := &farError{msg: w.Message}
	for _, k := range kinds {
		if k.name == w.Kind {
			e.typed = k.make(w.Data)
		}
	}
	return e
}

type farError struct {
	msg   string
	typed error
}

func (e *farError) Error() string { return e.msg }
func (e *farError) Unwrap() error { return e.typed }
