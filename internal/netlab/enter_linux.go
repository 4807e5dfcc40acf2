package netlab

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rlca/internal/peer"
)

// mark is the environment variable that tells a process of the namespace which its tests were started from.
const mark = "RLCA_NETLAB_OUTSIDE"

var (
	entered bool   // this process is the laptop
	refusal string // why it cannot be
)

// Enter replaces this process by one that runs the same in a network namespace of its own, with nothing but a
// loopback in it, and returns only there. What is mounted there is mounted nowhere else, so that a test can have a
// resolver of its own. Without root on Linux it returns at once.
func Enter() {
	outside := os.Getenv(mark)
	here, err := os.Readlink("/proc/self/ns/net")
	switch {
	case os.Geteuid() != 0:
		refusal = "it needs root on Linux"
	case err != nil:
		refusal = fmt.Sprintf("read this process's network namespace: %v", err)
	case outside != "" && outside != here:
		err := loopback()
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err != nil {
			refusal = err.Error()
			return
		}
		entered = true
	default:
		again(here) // returns only if it cannot
	}
}

// again runs this program once more in a new network namespace, and ends as it does.
func again(here string) {
	program, err := os.Executable()
	if err != nil {
		refusal = fmt.Sprintf("find this program, to run it in a network namespace: %v", err)
		return
	}
	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), mark+"="+here)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}

	// The child gets its death signal when the thread that started it ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// What the tests leave behind, say when one panics, comes to this process instead of to init.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		refusal = fmt.Sprintf("become the parent of what tests leave behind: %v", err)
		return
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP)
	if err := cmd.Start(); err != nil {
		signal.Stop(signals)
		unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
		refusal = fmt.Sprintf("start %s in a new network namespace: %v", program, err)
		return
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	status, err := wait(cmd.Process.Pid)
	sweep()
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "wait for %s in a new network namespace: %v\n", program, err)
	case status.Exited():
		os.Exit(status.ExitStatus())
	default:
		fmt.Fprintf(os.Stderr, "run %s in a new network namespace: ended by %v\n", program, status.Signal())
	}
	os.Exit(1)
}

// wait waits for the end of a child, and meanwhile for that of all others, as init does.
func wait(child int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if pid == child || err != nil && err != unix.EINTR {
			return status, err
		}
	}
}

// sweep kills all that descends from this process.
func sweep() {
	for range 400 {
		for _, pid := range peer.Descendants(os.Getpid()) {
			unix.Kill(pid, unix.SIGKILL)
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.ECHILD {
				return
			}
			if pid <= 0 {
				break
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// loopback brings this thread's namespace up to where every machine is after its start.
func loopback() error {
	for name, value := range map[string]string{
		// Else what one test did to TCP (a lost packet, a long way) would be remembered for the next one's connections.
		"tcp_no_metrics_save": "1",
		// If the tests are killed, an idle connection of the box outlives them for minutes, not for hours.
		"tcp_keepalive_time": "600", "tcp_keepalive_intvl": "10", "tcp_keepalive_probes": "3",
	} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	return setUp("lo", true)
}
