package remote

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// A Windows box has no POSIX shell: what the scripts of the other boxes do, PowerShell does there, for Ollama alone. All else
// of Ollama, its API, models, loads and copies of names, is the same. None of this has been run on Windows: it follows the
// documentation of Windows PowerShell 5.1, and its tests run against a box that is made up.
//
// What sshd starts there lives in a job that ends with the session. So a server is created by CIM (Win32_Process Create),
// outside of that job, which only an administrator's account may do over SSH; a server that runs is adopted without. A
// process there has no environment that others can read and no group: it is known by its number and its time of birth, its
// family by the numbers and births of their parents, and the shell around it by the mark in its command line.
//
// The command line of cmd takes 8191 characters, so each script is short. No word of a user stands in its code: the words
// come as JSON in base64.

// windowsPrelude is put before each script. %[1]s is its name, %[2]s the nonce, %[3]s the words, in base64. It writes bytes
// to the output itself: a console has its own encoding and width. A policy may forbid all of that, which has to be asked
// first, in words that are allowed then.
//
// dir is our folder, arg the words. A time of birth is in milliseconds: CIM tells microseconds, .NET tenths of them. Names of
// variables are the same in small and capital letters, so those of the prelude are longer than the others.
const windowsPrelude = `# rlca %[1]s
$tag='%[2]s'
$m=$ExecutionContext.SessionState.LanguageMode;if($m -ne 'FullLanguage'){"` + "`n" + `$tag mode=$m` + "`n" + `";exit}
$ErrorActionPreference='SilentlyContinue';$ProgressPreference='SilentlyContinue'
$utf=New-Object Text.UTF8Encoding $false;$std=[Console]::OpenStandardOutput()
function out($s){$b=$utf.GetBytes($s);$std.Write($b,0,$b.Length);$std.Flush()}
function say($k,$v){out "` + "`n" + `$tag $k=$("$v" -replace '[\r\n]+',' ')` + "`n" + `"}
function ms($d){$t=$d.ToUniversalTime().Ticks;($t-$t%%10000)/10000}
function born($i){try{ms (gps -Id $i -ea 1).StartTime}catch{}}
$arg=$utf.GetString([Convert]::FromBase64String('%[3]s'))|ConvertFrom-Json
$dir="$env:USERPROFILE\.rlca"
function rec{try{[IO.File]::ReadAllText("$dir\$($arg.name).json")|ConvertFrom-Json}catch{}}
function mine($r){$r -and $r.pid -and "$(born $r.pid)" -eq $r.born}
function body{
`

const windowsEnd = `
}
say begin 1
try{body}catch{say error "$($_.Exception.Message)";say code "$($_.Exception.NativeErrorCode)"}
say end 1`

// windows reports whether the box is one, which is asked by PowerShell.
func (h *host) windows() bool { return h.box.PowerShell != nil }

// powershell runs the script body under its name and reads the lines that it says, as script does. words are its $arg.
func (h *host) powershell(ctx context.Context, name, body string, words any) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, scriptLimit)
	defer cancel()
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false) // each character counts
	if err := enc.Encode(words); err != nil {
		return nil, err
	}
	n := nonce()
	start := time.Now()
	out, err := h.box.PowerShell(ctx, fmt.Sprintf(windowsPrelude, name, n, base64.StdEncoding.EncodeToString(bytes.TrimSpace(data.Bytes())))+body+windowsEnd)
	h.log.Debug("powershell", "script", name, "after", time.Since(start), "bytes", len(out), "err", err)
	text := plainText(out)
	a := parseAnswer(n, text)
	switch {
	case a.get("end") != "" && a.get("error") != "":
		return a, h.refused(name, a)
	case a.get("end") != "":
		return a, nil
	case a.get("mode") != "":
		return nil, fmt.Errorf("run PowerShell on the box: a policy there sets its language mode to %s, in which it can neither tell what listens nor start anything: start Ollama there by hand and connect with --engine none", a.get("mode"))
	case err != nil:
		return nil, fmt.Errorf("run PowerShell on the box: %w", err)
	case a.get("begin") == "":
		return nil, fmt.Errorf("run PowerShell on the box: it does not run scripts for us; it said %q", clean(noXML(string(text[:min(len(text), 4*textLimit)]))))
	}
	return nil, fmt.Errorf("run PowerShell on the box: it ended half way: %s", clean(noXML(strings.Join(a.lines["noise"], " · "))))
}

// errDenied says that the account may not use CIM, and so cannot have started anything by it either.
var errDenied = errors.New("ask CIM on the box: over SSH only an administrator's account may use it; use such an account, or start Ollama there by hand: one that runs is adopted")

// refused is the error of a script that failed on the box.
func (h *host) refused(name string, a *answer) error {
	if strings.Contains(a.get("code"), "AccessDenied") {
		return fmt.Errorf("%w: %s", errDenied, a.get("error"))
	}
	return fmt.Errorf("run PowerShell on the box (%s): %s", name, a.get("error"))
}

// plainText makes UTF-8 with simple ends of lines of what a Windows program printed: some print UTF-16.
func plainText(out []byte) []byte {
	if zeros := bytes.Count(out, []byte{0}); zeros > len(out)/4 {
		out = bytes.TrimPrefix(out, []byte{0xff, 0xfe})
		var units []uint16
		for i := 0; i+1 < len(out); i += 2 {
			units = append(units, binary.LittleEndian.Uint16(out[i:]))
		}
		out = []byte(string(utf16.Decode(units)))
	}
	return bytes.ReplaceAll(out, []byte("\r\n"), []byte("\n"))
}

var (
	xmlText = regexp.MustCompile(`_x000[0-9A-F]_`)
	xmlTag  = regexp.MustCompile(`#< CLIXML|<[^<>]*>`)
)

// noXML leaves the words of what PowerShell writes as CLIXML.
func noXML(s string) string {
	return xmlTag.ReplaceAllString(xmlText.ReplaceAllString(s, " "), " ")
}

// errNoShell is for what rlca does by scripts of a POSIX shell alone.
var errNoShell = errors.New("the box runs Windows, where rlca does this for Ollama alone")

// windowsFacts finds what factsScript finds. The listeners of Get-NetTCPConnection come from CIM, which an account may not
// be allowed to use; netstat needs no rights, and its words are those of the box's language.
const windowsFacts = `say home $env:USERPROFILE
$p=(gcm ollama -CommandType Application|select -First 1).Definition
foreach($d in "$env:LOCALAPPDATA\Programs\Ollama","$env:ProgramFiles\Ollama"){if(!$p -and (Test-Path -LiteralPath "$d\ollama.exe")){$p="$d\ollama.exe"}}
say path $p
say models $env:OLLAMA_MODELS
if(gps 'ollama app'){say how 'Windows desktop app'}
elseif(gsv *ollama*|?{$_.Status -eq 'Running'}){say how 'Windows service'}
$r=rec
if($r){say pid $r.pid;say mark $r.mark;say address $r.address;if(mine $r){say alive 1}}
if(Test-Path "$dir\derived"){gc "$dir\derived"|%{say derived $_}}
$t=@(Get-NetTCPConnection -State Listen)
if($t){say listeners net;foreach($l in $t){say listen "$($l.LocalAddress) $($l.LocalPort) $($l.OwningProcess) $((gps -Id $l.OwningProcess).Name)"}}
else{$t=@(netstat -ano -p TCP)+@(netstat -ano -p TCPv6);if($t){say listeners netstat
foreach($l in $t){$w=-split $l;if($w[0] -eq 'TCP' -and $w[2] -match '^(0\.0\.0\.0|\[::\]):0$'){say listen "$($w[1] -replace ':(\d+)$',' $1') $($w[-1]) $((gps -Id $w[-1]).Name)"}}}}`

// lookWindows is look on a Windows box. curl stays empty: a download is held from here.
func (o *Ollama) lookWindows(ctx context.Context) (*facts, error) {
	a, err := o.powershell(ctx, "facts", windowsFacts, map[string]any{"name": o.job})
	if err != nil {
		return nil, err
	}
	f := &facts{home: a.get("home"), path: a.get("path"), how: a.get("how"), models: a.get("models")}
	if f.models == "" {
		f.models = f.home + `\.ollama\models`
	}
	f.ours = record{pid: a.int("pid"), mark: a.get("mark"), address: a.get("address")}
	f.alive = a.get("alive") != ""
	for _, d := range a.lines["derived"] {
		if addr, name, ok := strings.Cut(d, " "); ok {
			f.derived = append(f.derived, copied{addr, name})
		}
	}
	f.listenersKnown = a.get("listeners") != ""
	var owners []string // of the port of ours
	for _, line := range a.lines["listen"] {
		w := strings.SplitN(line, " ", 4)
		if len(w) < 3 {
			continue
		}
		l, ok := hostPort(w[0], w[1], strings.Contains(w[0], ":"))
		if !ok {
			continue
		}
		f.listeners = append(f.listeners, l)
		if f.ours.mark != "" && l.port == portOf(f.ours.address) {
			owners = append(owners, strings.Join(w[2:], " "))
		}
	}
	// A program that only leads to another, as package managers make them, is not the one that listens: names count, too.
	ours := func(owner string) bool {
		pid, name, _ := strings.Cut(owner, " ")
		return pid == strconv.Itoa(f.ours.pid) || strings.HasPrefix(name, "ollama")
	}
	if f.alive && len(owners) > 0 && !slices.ContainsFunc(owners, ours) {
		o.log.Warn("another process has the port of ours", "address", f.ours.address, "ours", f.ours.pid, "owners", owners)
		f.alive = false
	}
	return f, nil
}

// windowsLock waits for the one lock of the account, which the system takes back when this PowerShell ends, however.
const windowsLock = `for($t=0;!$lock -and $t -lt 150;$t++){try{$lock=New-Object IO.FileStream "$dir\lock",'OpenOrCreate','ReadWrite','None',1,'DeleteOnClose'}catch{$w="$_";sleep -m 100}}
if(!$lock){throw "$dir\lock: $w"}
`

// windowsLaunch is launchScript. The record is written before the server is, without a number, and again with that of the
// shell around the server, cmd: only a shell can send its output to the log. All that differs from one start to the next
// comes to it in its environment, but for the mark. The environment of a process that CIM creates is the one that it is
// given, so it is given all of ours.
const windowsLaunch = `$null=ni $dir -ItemType Directory -Force -ea 1
` + windowsLock + `$r=rec
if($r){if(mine $r){say pid $r.pid;say mark $r.mark;say address $r.address}else{say stale 1};return}
$g="$dir\$($arg.name).log";$n=0
if(Test-Path $g){$n=(gi $g).Length}
if($n -gt 4194304){mi $g "$g.old" -Force;$n=0}
say logfrom $n
$j="$dir\$($arg.name).json"
function put($p,$b){[IO.File]::WriteAllText($j,(@{pid=$p;born="$b";mark=$arg.mark;address=$arg.address}|ConvertTo-Json -Compress))}
put 0 ''
try{
$e=@{};gci env:|%{$e[$_.Name]=$_.Value}
foreach($v in $arg.env){$k,$x=$v -split '=',2;$e[$k]=$x}
$e.RLCA_EXE=$arg.path;$e.RLCA_LOG=$g;$e.RLCA_OWNER=$arg.mark
$s=New-CimInstance Win32_ProcessStartup -ClientOnly -ea 1 -Property @{EnvironmentVariables=[string[]]@($e.Keys|%{"$_=$($e[$_])"})}
$c='cmd.exe /d /s /c "set RLCA_OWNER='+$arg.mark+'&"%RLCA_EXE%" serve >>"%RLCA_LOG%" 2>&1"'
$x=Invoke-CimMethod Win32_Process -MethodName Create -ea 1 -Arguments @{CommandLine=$c;ProcessStartupInformation=$s}
if($x.ReturnValue){throw "Win32_Process Create: $($x.ReturnValue)"}
}catch{ri $j;throw}
$p=$x.ProcessId;put $p (born $p)
say pid $p;say mark $arg.mark;say address $arg.address`

// createErrors are the codes of Win32_Process Create.
var createErrors = map[string]string{"2": "access denied", "3": "insufficient privilege", "8": "unknown failure", "9": "path not found", "21": "invalid parameter"}

// launchWindows is launch on a Windows box. What a dead server of the same name has left behind is ended first.
func (h *host) launchWindows(ctx context.Context, mark string, j job) (*launched, error) {
	if len(j.argv) != 2 || j.argv[1] != "serve" {
		return nil, fmt.Errorf("start %s with %q: on Windows [engine] args may only be NAME=value", j.name, strings.Join(j.argv[min(2, len(j.argv)):], " "))
	}
	words := map[string]any{"name": j.name, "mark": mark, "address": j.address, "path": j.argv[0], "env": j.env}
	for try := 0; ; try++ {
		a, err := h.powershell(ctx, "launch", windowsLaunch, words)
		if err != nil {
			if _, code, ok := strings.Cut(err.Error(), "Win32_Process Create: "); ok && createErrors[code] != "" {
				err = fmt.Errorf("%w (%s)", err, createErrors[code])
			}
			return nil, err
		}
		if a.get("stale") == "" {
			l := &launched{record: record{pid: a.int("pid"), mark: a.get("mark"), address: a.get("address")}, logFrom: a.int("logfrom")}
			if l.ours = l.mark == mark; l.ours {
				err = h.settleWindows(ctx, j.name, l)
			}
			return l, err
		}
		if try == 2 {
			return nil, errors.New("what an earlier start has left on the box does not go away")
		}
		if _, err := h.haltWindows(ctx, j.name, ""); err != nil {
			return nil, fmt.Errorf("end what an earlier start has left: %w", err)
		}
	}
}

// windowsSettle writes another number into a record.
const windowsSettle = `$r=rec
if($r.mark -ne $arg.mark){return}
$r.pid=$arg.pid;$r.born=$arg.born
[IO.File]::WriteAllText("$dir\$($arg.name).json",($r|ConvertTo-Json -Compress))`

// settleTries is how often the server is looked for behind its shell, which may not have begun it yet.
const settleTries = 10

// settleWindows makes the record of a launch that of the server, of which the launch knows the shell alone. Should the shell
// go, the server's children are known by it. A server that is gone already is no error.
func (h *host) settleWindows(ctx context.Context, name string, l *launched) error {
	for range settleTries {
		t, err := h.tasks(ctx, name, l.mark, false)
		if err != nil {
			return err
		}
		list := t.family(l.mark)
		for _, p := range list {
			if p.parent == l.pid && p.ofOllama() {
				l.pid = p.pid
				_, err := h.powershell(ctx, "settle", windowsSettle, map[string]any{"name": name, "mark": l.mark, "pid": p.pid, "born": strconv.FormatInt(p.born, 10)})
				return err
			}
		}
		if len(list) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

const windowsAlive = `$r=rec
if($r -and $r.mark -eq $arg.mark -and (mine $r)){say alive 1;return}
$f="$dir\$($arg.log)"
if($arg.from -lt 0 -or !(Test-Path $f)){return}
$s=New-Object IO.FileStream $f,'Open','Read','ReadWrite'
$null=$s.Seek([Math]::Max([Math]::Min($arg.from,$s.Length),$s.Length-65536),'Begin')
(New-Object IO.StreamReader $s,$utf).ReadToEnd() -split '[\r\n]+'|?{$_}|select -Last 12|%{say log ($_.Substring(0,[Math]::Min(300,$_.Length)))}`

// aliveWindows is alive on a Windows box, where no watch runs.
func (h *host) aliveWindows(ctx context.Context, name, mark, log string, logFrom int) (bool, []string, error) {
	a, err := h.powershell(ctx, "alive", windowsAlive, map[string]any{"name": name, "mark": mark, "log": log, "from": logFrom})
	if err != nil {
		return false, nil, err
	}
	return a.get("alive") != "", a.lines["log"], nil
}

const windowsLog = `foreach($f in "$dir\$($arg.log)","$env:LOCALAPPDATA\Ollama\server.log"){
if(Test-Path -LiteralPath $f){gc -LiteralPath $f -Tail 400 -Encoding UTF8|%{say log ($_.Substring(0,[Math]::Min(2000,$_.Length)))};return}}`

// windowsDisk is diskScript: the manifests and the small files that they name, in base64.
const windowsDisk = `$k=0
function raw($k,$b){out ("` + "`n" + `$tag raw:$k=*` + "`n" + `"+[Convert]::ToBase64String($b)+"` + "`n" + `")}
foreach($d in $arg.dirs){$k++
$m=(gi -LiteralPath "$d\manifests").FullName
if(!$m){continue}
say "dir$k" $d;$i=0
foreach($f in @(gci -LiteralPath $m -Recurse -File|?{$_.Length -gt 0 -and $_.Length -le 16384}|select -First 400)){$i++
$b=[IO.File]::ReadAllBytes($f.FullName)
say file "$k $i $($f.FullName.Substring($m.Length+1).Replace('\','/'))"
raw "m$k.$i" $b
$h='';try{$h=($utf.GetString($b)|ConvertFrom-Json).config.digest}catch{}
if($h -match '^sha256:[0-9a-f]{64}$'){$c=gi -LiteralPath "$d\blobs\$($h.Replace(':','-'))";if($c -and $c.Length -le 16384){raw "c$k.$i" ([IO.File]::ReadAllBytes($c.FullName))}}}}`

// diskWindows is what diskScript answers, of the folders of this account on a Windows box.
func (o *Ollama) diskWindows(ctx context.Context, f *facts) (*answer, error) {
	dirs := []string{f.models}
	if own := f.home + `\.ollama\models`; !strings.EqualFold(own, f.models) {
		dirs = append(dirs, own)
	}
	a, err := o.powershell(ctx, "disk", windowsDisk, map[string]any{"dirs": dirs})
	if err != nil {
		return nil, err
	}
	for key, text := range a.raw {
		// What is no base64 is no manifest either.
		a.raw[key], _ = base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	}
	return a, nil
}

// windowsRemember adds a line to the list of copies, windowsForget takes one out.
const (
	windowsRemember = `$null=ni $dir -ItemType Directory -Force -ea 1
$f="$dir\derived"
if(@(gc $f) -cnotcontains $arg.line){[IO.File]::AppendAllText($f,$arg.line+"` + "`n" + `")}`
	windowsForget = `$f="$dir\derived"
if(!(Test-Path $f)){return}
$l=@(gc $f|?{$_ -cne $arg.line})
if($l){[IO.File]::WriteAllText($f,($l -join "` + "`n" + `")+"` + "`n" + `")}else{ri $f}
` + windowsTidy
	// windowsTidy removes our folder if nothing is left in it.
	windowsTidy = `if((Test-Path $dir) -and !(gci $dir -Force)){ri $dir}`
)
