//go:build unix

package remote

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func init() { fakePrograms["ray"] = fakeRay }

// fakeRay is the test binary under the name ray: as much of `ray start --block` and `ray status` as rlca uses, with the
// words of 2.60. FAKE_RAY is a folder that all boxes of a test share. The file "fake-ray" in its home says how it is ill.
func fakeRay(args []string) {
	noteCall("ray", args)
	dir := os.Getenv("FAKE_RAY")
	illness, _ := os.ReadFile(filepath.Join(os.Getenv("HOME"), "fake-ray"))
	word, text, _ := strings.Cut(strings.TrimSpace(string(illness)), " ")
	token, err := os.ReadFile(os.Getenv("RAY_AUTH_TOKEN_PATH"))
	if err != nil || os.Getenv("RAY_AUTH_MODE") != "token" {
		fmt.Println("Token authentication is disabled for this Ray cluster.")
		os.Exit(1)
	}
	key := filepath.Join(dir, "token")
	if args[0] == "status" {
		want, err := os.ReadFile(key)
		switch {
		case err != nil:
			fmt.Println("ray.exceptions.RpcError: Timed out while waiting for GCS to become available.")
			os.Exit(1)
		case word != "open" && (os.Getenv("RAY_AUTH_TOKEN") != "" || string(token) != string(want)):
			fmt.Println("ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing or incorrect.")
			os.Exit(1)
		}
		fmt.Print("======== Autoscaler status: 2026-11-26 03:29:18.890691 ========\nNode status\n---------------------------------------------------------------\nActive:\n")
		files, _ := filepath.Glob(filepath.Join(dir, "node-*"))
		for _, f := range files {
			pid, _ := os.ReadFile(f)
			n, _ := strconv.Atoi(string(pid))
			if syscall.Kill(n, 0) == nil {
				fmt.Printf(" 1 node_%s\n", strings.Repeat("ab", 28))
			}
		}
		fmt.Print("Pending:\n (no pending nodes)\nRecent failures:\n (no failures)\n\nResources\n---------------------------------------------------------------\nTotal Usage:\n 0.0/2.0 GPU\n")
		return
	}
	fmt.Println("2026-11-26 03:26:09,494\tINFO usage_lib.py:448 -- Usage stats collection is disabled.")
	if word == "dies" {
		fmt.Println(text)
		os.Exit(1)
	}
	if slices.Contains(args, "--head") {
		if err := os.WriteFile(key, token, 0o600); err != nil {
			panic(err)
		}
	} else if want, _ := os.ReadFile(key); string(want) != string(token) {
		fmt.Println("ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing or incorrect.")
		os.Exit(1)
	}
	mine := filepath.Join(dir, "node-"+os.Getenv("FAKE_NODE"))
	if word != "apart" {
		if err := os.WriteFile(mine, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
			panic(err)
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	fmt.Println("2026-11-26 03:26:17,024\tSUCC scripts.py:1085 -- Ray runtime started.")
	fmt.Println("2026-11-26 03:26:17,025\tINFO scripts.py:1266 -- This command will now block forever until terminated by a signal.")
	select {
	case <-stop:
		os.Remove(mine)
	case <-time.After(time.Minute):
	}
}
