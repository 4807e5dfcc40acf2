package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// device is the name of the TUN device in either namespace.
const device = "lab0"

// openTUN makes the TUN device of this thread's namespace.
func openTUN() (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	// With a header before each packet the kernel hands over segments of up to 64 KB, and cuts them for nobody: the
	// other namespace takes them as they are.
	ifr, err := unix.NewIfreq(device)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the device %s: %w", device, err)
	}
	// Only now: a TUN that is polled before it is attached is never ready.
	return os.NewFile(uintptr(fd), path), nil
}

// configure gives the device of this thread's namespace its addresses and brings it up.
func configure(v4, v6 string) error {
	// No word of its own: the lab's packets are those of the tests. Without IPv6 there is none to silence.
	for name, value := range map[string]string{"addr_gen_mode": "1", "accept_ra": "0", "router_solicitations": "0", "accept_dad": "0"} {
		os.WriteFile("/proc/sys/net/ipv6/conf/"+device+"/"+name, []byte(value), 0)
	}
	// The device's own queue must not lose what the way would carry.
	err := withIfreq(device, func(fd int, ifr *unix.Ifreq) error {
		ifr.SetUint32(2 * queueLimit)
		return unix.IoctlIfreq(fd, unix.SIOCSIFTXQLEN, ifr)
	})
	if err != nil {
		return fmt.Errorf("set the length of %s's queue: %w", device, err)
	}
	if err := setAddr(v4); err != nil {
		return err
	}
	if err := setUp(device, true); err != nil {
		return err
	}
	return addAddr6(v6)
}

// withIfreq runs an interface ioctl in this thread's namespace.
func withIfreq(name string, f func(fd int, ifr *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return f(fd, ifr)
}

// setUp brings a device up or down.
func setUp(name string, up bool) error {
	err := withIfreq(name, func(fd int, ifr *unix.Ifreq) error {
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return err
		}
		flags := ifr.Uint16() &^ unix.IFF_UP
		if up {
			flags |= unix.IFF_UP
		}
		ifr.SetUint16(flags)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	})
	if err != nil {
		return fmt.Errorf("bring %s up (%v): %w", name, up, err)
	}
	return nil
}

// setAddr replaces the device's IPv4 address by another one of a /24; an empty one is none.
func setAddr(addr string) error {
	err := withIfreq(device, func(fd int, ifr *unix.Ifreq) error {
		ip := netip.IPv4Unspecified() // which removes it
		if addr != "" {
			var err error
			if ip, err = netip.ParseAddr(addr); err != nil {
				return err
			}
			if !ip.Is4() {
				return errors.New("not an IPv4 address")
			}
		}
		if err := ifr.SetInet4Addr(ip.AsSlice()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr); err != nil || addr == "" {
			return err
		}
		if err := ifr.SetInet4Addr([]byte{255, 255, 255, 0}); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, ifr)
	})
	if err != nil {
		return fmt.Errorf("make %q the address of %s: %w", addr, device, err)
	}
	return nil
}

// addAddr6 gives the device an IPv6 address of a /64, if this kernel has IPv6.
func addAddr6(addr string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var index uint32
	err = withIfreq(device, func(fd int, ifr *unix.Ifreq) error {
		err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
		index = ifr.Uint32()
		return err
	})
	if err == nil {
		req := struct { // struct in6_ifreq
			addr   [16]byte
			prefix uint32
			index  uint32
		}{[16]byte(net.ParseIP(addr).To16()), 64, index}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&req)))
		if errno != 0 && errno != unix.EEXIST && errno != unix.EACCES { // EACCES: IPv6 is switched off
			err = errno
		}
	}
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", addr, device, err)
	}
	return nil
}
