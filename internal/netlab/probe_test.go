package netlab_test

import (
	"testing"
	"time"

	"rlca/internal/netlab"
	"rlca/probe"
	"rlca/tunnel"
)

// A probe is one script and one answer, and after a login it costs two round trips, whatever it asks: the shell is on
// its way when the login is done, and the script has to go there and the answer to come back.
func TestLinkProbe(t *testing.T) {
	const (
		far   = 200 * time.Millisecond
		trips = 2
		noise = far / 2 // of the box's own work, from one probe to the next
	)
	lab := netlab.New(t)
	target, err := tunnel.Resolve(t.Context(), "box", tunnel.Options{ConfigFile: lab.StartSSHD().Config, OpenSSH: "none", Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var took [2]time.Duration // the quickest without delay, and over the long way
	for range 5 {
		for i, rtt := range []time.Duration{0, far} {
			lab.Delay(rtt / 2)
			time.Sleep(far) // nothing of before is on the way, which nobody overtakes
			client, err := new(tunnel.Dialer).Dial(t.Context(), target)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			r, err := probe.Run(t.Context(), client)
			if d := time.Since(start); took[i] == 0 || d < took[i] {
				took[i] = d
			}
			client.Close()
			if err != nil || r.OS != "linux" || r.Memory.TotalBytes == nil {
				t.Fatalf("a probe over %s: %+v, %v", rtt, r, err)
			}
		}
	}
	near, slow := took[0], took[1]
	t.Logf("a probe without delay: %.3f s; over a round trip of %s: %.3f s, %.2f round trips more", near.Seconds(), far, slow.Seconds(), float64(slow-near)/float64(far))
	within(t, "what the way adds to a probe", slow-near, trips*far+noise)
}
