package profiles

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	text := `host = "spark-box"
user = 'CORP\me'
port = 2_222
identity = ["~/.ssh/a", # one of them
  "~/.ssh/b"]
jump = []
model.name = "qwen3-coder:30b"
model.context = 0x8000
engine = { name = "ollama", args = ["-v"] }

[forward] # the port
hold = """2m"""
also = ["localhost:3000:[fd00::2]:80"]
`
	want := Default()
	want.Host, want.User, want.Port = "spark-box", `CORP\me`, 2222
	want.Identity = []string{"~/.ssh/a", "~/.ssh/b"}
	want.Model.Name, want.Model.Context = "qwen3-coder:30b", 32768
	want.Engine.Name, want.Engine.Args = "ollama", []string{"-v"}
	want.Forward.Hold, want.Forward.Also = Duration(2*time.Minute), []Also{"localhost:3000:[fd00::2]:80"}
	for name, text := range map[string]string{
		"as it is": text, "with CRLF": strings.ReplaceAll(text, "\n", "\r\n"), "with BOM": "\xef\xbb\xbf" + text,
		"without the last newline": strings.TrimSuffix(text, "\n"), "with both": "\xef\xbb\xbf" + strings.ReplaceAll(text, "\n", "\r\n"),
	} {
		got, err := Parse("spark.toml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: got %+v\nwant %+v", name, *got, want)
		}
	}
}

// What a value may be, key by key.
func TestValues(t *testing.T) {
	const listen = "must be a loopback address (127.0.0.1, [::1] or localhost), not %q: rlca never listens to anyone but you"
	tests := []struct {
		key  string // with its section
		good []string
		bad  map[string]string // value → message behind the key's name
	}{
		{"host", []string{`"10.0.0.7"`, `"fd00::1"`, `"fe80::1%eth0"`, `"me@spark:2222"`, `"ssh://me@spark:22"`, `"größe.example"`}, map[string]string{
			`""`:             "must not be empty",
			`"-oProxy=x"`:    `must not begin with "-", as "-oProxy=x" does`,
			`"a b"`:          `must not contain spaces or control characters, as "a b" does`,
			`"a\nb"`:         `must not contain spaces or control characters, as "a\nb" does`,
			"\"a`b\"":        "must not contain \"`\", as \"a`b\" does",
			`"$(reboot)"`:    `must not contain "$", as "$(reboot)" does`,
			`["spark"]`:      "must be a string, not a list",
			`{ a = 1 }`:      "must be a string, not a table",
			`10.5`:           `must be a string, not a number: write host = "10.5"`,
			`false`:          "must be a string, not false",
			`1979-05-27`:     "must be a string, not a date or time",
			`[[[["deep"]]]]`: "must be a string, not a list",
		}},
		{"user", []string{`"me"`, `'CORP\John Doe'`, `"me@corp"`}, map[string]string{
			`""`:        "must not be empty: leave the key out to use what ssh_config says",
			`"-l"`:      `must not begin with "-", as "-l" does`,
			`"a -b"`:    `must not contain " -" nor end with a backslash, as "a -b" does`,
			`"a;b"`:     `must not contain ";", as "a;b" does`,
			`'CORP\'`:   `must not contain " -" nor end with a backslash, as "CORP\\" does`,
			`"a\u0000"`: `must not contain spaces or control characters, as "a\x00" does`,
		}},
		{"port", []string{"1", "65535", "+22"}, map[string]string{
			"0": "must be from 1 to 65535, not 0", "65536": "must be from 1 to 65535, not 65536", "-1": "must be from 1 to 65535, not -1",
			"99999999999999999999": "must be from 1 to 65535, not 99999999999999999999",
			`"22"`:                 "must be a number, not a string", "22.0": "must be a whole number, not 22.0", "nan": "must be a whole number, not nan",
			"true": "must be a number, not true", "[22]": "must be a number, not a list",
		}},
		{"identity", []string{`[]`, `["~/.ssh/my key"]`, `['C:\keys\a']`}, map[string]string{
			`"~/.ssh/a"`: `must be a list of strings, not a string: write identity = ["~/.ssh/a"]`,
			`7`:          `must be a list of strings, not a number: write identity = ["~/.ssh/id_ed25519"]`,
			`[""]`:       "must not be empty",
			`["a\tb"]`:   `must not contain control characters, as "a\tb" does`,
			`["a", 7]`:   ", entry 2, must be a string, not a number",
			`[["a"]]`:    "must be a string, not a list",
		}},
		{"jump", []string{`["bastion", "me@b:22"]`}, map[string]string{
			`["a,b"]`:     `must be one host: write several as ["first", "second"]`,
			`["a", "-b"]`: `, entry 2, must not begin with "-", as "-b" does`,
			`[""]`:        "must not be empty",
		}},
		{"model.name", []string{`"auto"`, `"hf.co/x/y:Q4_K_M"`, `"/srv/my models/a.gguf"`}, map[string]string{
			`""`:     `must not be empty: "auto" lets rlca choose`,
			`"--x"`:  `must not begin with "-", as "--x" does`,
			`"a\nb"`: `must not contain control characters, as "a\nb" does`,
		}},
		{"model.context", []string{"0", "1", "1_048_576"}, map[string]string{
			"-1": "must be 0 or more, not -1", `"64k"`: "must be a number, not a string", "6.5e4": "must be a whole number, not 6.5e4",
			"2147483648": "must be at most 2147483647, not 2147483648", "-99999999999999999999": "must be 0 or more, not -99999999999999999999",
			"99999999999999999999": "must be at most 2147483647, not 99999999999999999999",
		}},
		{"model.parallel", []string{"1", "32"}, map[string]string{"0": "must be 1 or more, not 0"}},
		{"model.min_bits", []string{"1", "16"}, map[string]string{"0": "must be from 1 to 16, not 0", "17": "must be from 1 to 16, not 17"}},
		{"engine.name", []string{`"ollama"`, `"vllm"`, `"llama-server"`, `"none"`, `"auto"`}, map[string]string{
			`"olama"`:  `must be ollama, vllm, llama-server, none or auto, not "olama", did you mean "ollama"?`,
			`"Ollama"`: `must be ollama, vllm, llama-server, none or auto, not "Ollama", did you mean "ollama"?`,
			`"sglang"`: `must be ollama, vllm, llama-server, none or auto, not "sglang"`,
			`""`:       `must be ollama, vllm, llama-server, none or auto, not ""`,
		}},
		{"engine.install", []string{`"never"`, `"ask"`}, map[string]string{`"always"`: `must be never or ask, not "always"`, `true`: "must be a string, not true"}},
		{"engine.address", []string{`""`, `"127.0.0.1:8000"`, `"[::1]:8000"`, `"gpu-node:80"`}, map[string]string{
			`"8000"`:                `must be host:port, as "127.0.0.1:11434", not "8000"`,
			`":8000"`:               `must be host:port, as "127.0.0.1:11434", not ":8000"`,
			`"::1:8000"`:            `must be host:port, as "127.0.0.1:11434", not "::1:8000"`,
			`"[spark]:8000"`:        `must have an IPv6 address in its brackets, not "spark"`,
			`"[a:b]:8000"`:          `must have an IPv6 address in its brackets, not "a:b"`,
			`"a:http"`:              `must end with a port number, not "http"`,
			`"a:0"`:                 `must have a port from 1 to 65535, not "0"`,
			`"a:99999999999999999"`: `must have a port from 1 to 65535, not "99999999999999999"`,
			`"http://a:8000/v1"`:    `must be host:port and no URL: write "a:8000"`,
			`"a$b:1"`:               `must not contain "$", as "a$b" does`,
		}},
		{"engine.keep_alive", []string{`"-1"`, `"0"`, `"300"`, `"5m"`, `"-1s"`}, map[string]string{
			`-1`: `must be a string, not a number: write keep_alive = "-1"`, `"ever"`: `must be seconds, a duration as "30m", or "-1" for ever, not "ever"`,
		}},
		{"engine.args", []string{`[]`, `["--x", "", "a b"]`}, map[string]string{
			`"--x"`: `must be a list of strings, not a string: write args = ["--x"]`, `["a\u0000"]`: "must not contain a zero byte",
		}},
		{"forward.listen", []string{`"127.0.0.1:1"`, `"127.8.8.8:11434"`, `"[::1]:11434"`, `"localhost:65535"`}, map[string]string{
			`"0.0.0.0:11434"`:             fmt.Sprintf(listen, "0.0.0.0"),
			`"*:11434"`:                   fmt.Sprintf(listen, "*"),
			`"[::]:11434"`:                fmt.Sprintf(listen, "::"),
			`"192.168.1.5:11434"`:         fmt.Sprintf(listen, "192.168.1.5"),
			`"128.0.0.1:11434"`:           fmt.Sprintf(listen, "128.0.0.1"),
			`"[::ffff:127.0.0.1]:11434"`:  fmt.Sprintf(listen, "::ffff:127.0.0.1"),
			`"[::1%lo]:11434"`:            fmt.Sprintf(listen, "::1%lo"),
			`"localhost.evil.com:11434"`:  fmt.Sprintf(listen, "localhost.evil.com"),
			`"127.1:11434"`:               fmt.Sprintf(listen, "127.1"),
			`":11434"`:                    `must be a loopback address, and ":11434" is every address of this machine; write "127.0.0.1:11434": rlca never listens to anyone but you`,
			`"11434"`:                     `must be host:port: write "127.0.0.1:11434"`,
			`"127.0.0.1"`:                 `must be host:port, as "127.0.0.1:11434", not "127.0.0.1"`,
			`"127.0.0.1:0"`:               `must have a port from 1 to 65535, not "0"`,
			`"http://127.0.0.1:11434/v1"`: `must be host:port and no URL: write "127.0.0.1:11434"`,
			`11434`:                       `must be a string, not a number: write listen = "11434"`,
		}},
		{"forward.mode", []string{`"http"`, `"tcp"`}, map[string]string{`"htttp"`: `must be http or tcp, not "htttp", did you mean "http"?`}},
		{"forward.hold", []string{`"1ns"`, `"100s"`, `"1h"`}, map[string]string{
			`"0s"`: `must be longer than nothing, not "0s"`, `"-1s"`: `must be longer than nothing, not "-1s"`, `"1h1ns"`: `must be at most 1h, not "1h1ns"`,
			`"100"`: `needs a unit: write "100s"`, `100`: `must be a string, not a number: write hold = "100s"`, `"soon"`: `must be a duration as "100s" or "2m", not "soon"`,
		}},
		{"forward.also", []string{`[]`, `["127.0.0.1:3000:localhost:3000"]`, `["[::1]:3000:[::1]:3000", "localhost:3001:a:1"]`,
			`["~/box.sock:/run/docker.sock", "/tmp/a.sock:localhost:80", "127.0.0.1:3000:/run/docker.sock"]`}, map[string]string{
			`["/tmp/a.sock:~/b.sock"]`:                 `must have the whole path of a socket on the box, not "~/b.sock"`,
			`["/tmp/a.sock:/tmp/b:c"]`:                 `must have no colon in the path of a socket, not "/tmp/b:c"`,
			`["/tmp/a/:/tmp/b"]`:                       `must have the path of a socket, not of a folder: "/tmp/a/"`,
			`["/tmp/a"]`:                               `must be LISTEN:PORT:HOST:PORT, as "127.0.0.1:3000:localhost:3000", not "/tmp/a"`,
			`["3000:localhost:3000"]`:                  `must be LISTEN:PORT:HOST:PORT, as "127.0.0.1:3000:localhost:3000", not "3000:localhost:3000"; write "127.0.0.1:3000:localhost:3000"`,
			`["::1:3000:localhost:3000"]`:              `must be LISTEN:PORT:HOST:PORT, as "127.0.0.1:3000:localhost:3000", not "::1:3000:localhost:3000"; an IPv6 address stands in brackets, as [::1]`,
			`["0.0.0.0:3000:a:1"]`:                     fmt.Sprintf(listen, "0.0.0.0"),
			`["127.0.0.1:11434:a:1"]`:                  "listens on port 11434, which forward.listen has already by default",
			`["127.0.0.1:3000:a:1", "[::1]:3000:b:1"]`: "listens on port 3000, which forward.also has already on line 3",
		}},
		{"cluster.workers", []string{`[]`, `["spark-2", "spark-3"]`}, map[string]string{
			`["spark"]`:  "must be the name of another profile, not this one's",
			`["../x"]`:   `must be the name of another profile; "../x" may have letters, digits, ".", "_" and "-" only`,
			`["a", "a"]`: `, entry 2, is the same as one before it: "a"`,
			`["local"]`:  `must be the name of another profile; "local" is reserved: it means this machine`,
			`"spark-2"`:  `must be a list of strings, not a string: write workers = ["spark-2"]`,
		}},
	}
	for _, test := range tests {
		section, name, ok := strings.Cut(test.key, ".")
		text, line := "host = \"h\"\n["+section+"]\n"+name+" = ", 3
		if !ok {
			text, line = "host = \"h\"\n"+section+" = ", 2
		}
		if test.key == "host" {
			text, line = "host = ", 1
		}
		for _, v := range test.good {
			if _, err := Parse("spark.toml", []byte(text+v+"\n")); err != nil {
				t.Errorf("%s = %s: %v", test.key, v, err)
			}
		}
		for v, msg := range test.bad {
			want := fmt.Sprintf("spark.toml:%d: %s %s", line, test.key, msg)
			want = strings.Replace(want, " , entry", ", entry", 1)
			_, err := Parse("spark.toml", []byte(text+v+"\n"))
			if err == nil || err.Error() != want {
				t.Errorf("%s = %s:\n got %v\nwant %s", test.key, v, err, want)
			}
		}
	}
}

// Whole files and all that is said of them, line by line.
func TestProblems(t *testing.T) {
	const missing = `host is missing: write host = "spark-box", the ssh_config alias, name or address of the box`
	tests := map[string]struct {
		text string
		want []string
	}{
		"empty file":      {"", []string{"1: " + missing}},
		"comments only":   {"# nothing\n\n", []string{"1: " + missing}},
		"host in section": {"[model]\nhost = \"x\"\n", []string{"1: " + missing, `2: unknown key "host" in [model]: it belongs at the top, before the first section`}},
		"unknown keys": {`host = "h"
modle = "x"
context = 1
name = "x"
Host = "x"
contxt = 1
frobnicate = 1
"" = 1
[forward]
port = 1
hlod = "1s"
model.name = "x"
`, []string{
			`2: unknown key "modle", did you mean "model"?`,
			`3: unknown key "context": it belongs in [model]`,
			`4: unknown key "name": it belongs in [model] or in [engine]`,
			`5: unknown key "Host", did you mean "host"?`,
			`6: unknown key "contxt", did you mean "context" in [model]?`,
			`7: unknown key "frobnicate"`,
			`8: unknown key ""`,
			`10: unknown key "port" in [forward]: it belongs at the top, before the first section`,
			`11: unknown key "hlod" in [forward], did you mean "hold"?`,
			`12: unknown key "model" in [forward]: [model] is a section of its own`,
		}},
		"sections": {`host = "h"
[modle]
anything = "goes"
[qqq.www]
[jump]
x = 1
[model.sub]
y = 1
[[engine]]
name = "olama"
`, []string{
			`2: unknown section [modle], did you mean [model]?`,
			`4: unknown section [qqq.www]`,
			`5: jump is a key and no section: write jump = ["bastion"] at the top of the file`,
			`7: unknown section [model.sub]: [model] has none of its own`,
			`9: [[engine]] must be a single section: write [engine]`,
			`10: engine.name must be ollama, vllm, llama-server, none or auto, not "olama", did you mean "ollama"?`,
		}},
		"dotted keys": {"host.x = 1\nmodel.name.y = 2\nfoo.bar = 1\nfoo.baz = 2\nmodel.nam = \"x\"\n", []string{
			`1: host must be a string, not a table`,
			`2: model.name must be a string, not a table`,
			`3: unknown section [foo]`,
			`5: unknown key "nam" in [model], did you mean "name"?`,
		}},
		"twice": {`host = "h"
host = "i"
model.name = "a"
model.name = "b"
engine = { name = "auto", name = "none" }
[model]
[forward]
mode = "http"
[forward]
mode = "tcp"
[engine]
`, []string{
			`2: host is set twice, first on line 1`,
			`4: model.name is set twice, first on line 3`,
			`5: engine.name is set twice, first on line 5`,
			`6: section [model] is there twice, first on line 3`,
			`9: section [forward] is there twice, first on line 7`,
			`10: forward.mode is set twice, first on line 8`,
			`11: section [engine] is there twice, first on line 5`,
		}},
		"inline and dotted": {"host = \"h\"\nmodel = { context = 0 }\nmodel.name = \"x\"\n", []string{`3: section [model] is there twice, first on line 2`}},
		"a section as value": {"host = \"h\"\nmodel = \"qwen3\"\nengine = []\n", []string{
			`2: model is a section, not a string: write [model] and below it keys as name = "auto"`,
			`3: engine is a section, not a list: write [engine] and below it keys as name = "auto"`,
		}},
		"inline table over lines": {"host = \"h\"\nmodel = {\n  context = -1,\n  nam = \"x\",\n}\n", []string{
			`3: model.context must be 0 or more, not -1`,
			`4: unknown key "nam" in [model], did you mean "name"?`,
		}},
		"list over lines": {"host = \"h\"\njump = [\n  \"a\",\n\n  # the second\n  \"-b\",\n  3,\n]\nprot = 1\n", []string{
			`6: jump, entry 2, must not begin with "-", as "-b" does`,
			`7: jump, entry 3, must be a string, not a number`,
			`9: unknown key "prot", did you mean "port"?`,
		}},
		"ports": {`host = "h"
[forward]
also = ["127.0.0.1:4000:a:1",
  "127.0.0.2:4000:b:1",
  "[::1]:4001:c:1"]
listen = "localhost:4001"
`, []string{
			`4: forward.also listens on port 4000, which forward.also has already on line 3`,
			`5: forward.also listens on port 4001, which forward.listen has already on line 6`,
		}},
		"no quotes": {"host = spark\nuser = true1\n[forward]\nlisten = 127.0.0.1:11434\nmode = http\nhold =\nport 3\n", []string{
			`1: invalid TOML: unexpected character U+0073 's' at start of value; a text stands in "quotes"`,
			`2: invalid TOML: expected newline but got U+0031 '1'; a text stands in "quotes"`,
			`4: invalid TOML: expected newline but got U+002E '.'; a text stands in "quotes"`,
			`5: invalid TOML: unexpected character U+0068 'h' at start of value; a text stands in "quotes"`,
			`6: invalid TOML: unexpected character U+000A at start of value; a value is missing`,
			`7: invalid TOML: expected '=' after key`,
		}},
		"half a quote": {"host = \"spark\nport = \"22\"\n", []string{
			`1: invalid TOML: basic strings cannot have new lines; the closing quote is missing`,
			`2: port must be a number, not a string`,
		}},
		"backslashes": {"host = \"h\"\nidentity = [\"C:\\Users\\me\"]\n", []string{
			`2: invalid TOML: invalid hexadecimal digit in unicode escape sequence; a backslash is written \\, or the text stands in 'single quotes'`,
		}},
		"half a header": {"host = \"h\"\n[model\nnonsense = 1\n[engine]\nnam = \"x\"\n", []string{
			`2: invalid TOML: expected ']' to close table name`,
			`5: unknown key "nam" in [engine], did you mean "name"?`,
		}},
		"open list": {"host = \"h\"\nprot = 1\njump = [\n  \"a\",\n  \"b\"\nport = 22\n", []string{
			`2: unknown key "prot", did you mean "port"?`,
			`6: invalid TOML: expected ',' or ']' after array value, in what begins on line 3; what follows was not read`,
		}},
		"open list at the end":       {"host = \"h\"\njump = [\n", []string{`2: invalid TOML: array is incomplete; what follows was not read`}},
		"open text":                  {"user = \"\"\"me\nhost = \"h\"\n", []string{`2: invalid TOML: multiline basic string not terminated by """, in what begins on line 1; what follows was not read`}},
		"behind a header":            {"host = \"h\"\n[model] name = \"x\"\n[forward]\nmode = \"x\"\n", []string{`2: invalid TOML: expected newline but got U+006E 'n'`, `4: forward.mode must be http or tcp, not "x"`}},
		"mistake behind a long list": {"host = \"h\"\njump = [\n  \"a\",\n] # the way\n\n# and\nuser = me\nport = 0\n", []string{`7: invalid TOML: unexpected character U+006D 'm' at start of value; a text stands in "quotes"`, `8: port must be from 1 to 65535, not 0`}},
		"mistake behind a list":      {"host = \"h\"\njump = [\n  \"a\",\n] x\nport = 0\n", []string{`4: invalid TOML: expected newline but got U+0078 'x', in what begins on line 2; what follows was not read`}},
		"zeros in front":             {"host = \"h\"\nport = 022\n", []string{"2: invalid TOML: integers cannot have leading zeroes"}},
		"no UTF-8":                   {"host = \"h\xff\"\n", []string{"1: invalid TOML: invalid UTF-8 character in basic string"}},
		"a zero byte":                {"host = \"h\x00\"\n", []string{"1: invalid TOML: basic strings cannot have control characters"}},
		"old Mac lines":              {"host = \"h\"\rport = 1\r", []string{`1: invalid TOML: expected newline but got U+000D`}},
		"a form feed":                {"\f", []string{`1: invalid TOML: invalid character at start of key: U+000C`, "1: " + missing}},
		"UTF-16":                     {"\xff\xfeh\x00o\x00", []string{"1: is in UTF-16: save it as UTF-8"}},
		"UTF-16, the other way":      {"\xfe\xff\x00h\x00o", []string{"1: is in UTF-16: save it as UTF-8"}},
		"controls in a key":          {"host = \"h\"\n\"\\u001b[31m\" = 1\n[\"\\u001b\"]\n", []string{`2: unknown key "\x1b[31m"`, `3: unknown section [\x1b]`}},
		"a long key":                 {"host = \"h\"\n" + strings.Repeat("k", 100) + " = 1\n", []string{`2: unknown key "` + strings.Repeat("k", 60) + `…"`}},
		"BOM and CRLF":               {"\xef\xbb\xbfhost = \"h\"\r\nprot = 1\r\n", []string{`2: unknown key "prot", did you mean "port"?`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Parse("spark.toml", []byte(test.text))
			var got []string
			var all Problems
			if !errors.As(err, &all) || p != nil {
				t.Fatalf("Parse is %v, %v, want Problems", p, err)
			}
			for _, one := range all {
				got = append(got, fmt.Sprintf("%d: %s", one.Line, one.Msg))
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			if want := "spark.toml:" + strings.Join(test.want, "\nspark.toml:"); err.Error() != want {
				t.Errorf("error reads\n%s\nwant\n%s", err, want)
			}
			var first *Problem
			if !errors.As(err, &first) || first != all[0] {
				t.Errorf("errors.As finds %v, want the first problem", first)
			}
		})
	}
}

func TestSizeLimit(t *testing.T) {
	line := []byte("host = \"h\"\n")
	text := append(line, bytes.Repeat([]byte("#"), maxSize-len(line))...)
	if _, err := Parse("big.toml", text); err != nil {
		t.Errorf("a profile of exactly 1 MiB: %v", err)
	}
	_, err := Parse("big.toml", append(text, '#'))
	if want := "big.toml: is longer than 1 MiB, which no profile is"; err == nil || err.Error() != want {
		t.Errorf("a profile over 1 MiB: %v, want %s", err, want)
	}
}

// A file that is no TOML at all is not answered with a message for each of its lines, and soon.
func TestNoTOML(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("GIF89a \x01\x02\n", maxSize/10),
		strings.Repeat("[", maxSize),
		"host = " + strings.Repeat("[", maxSize-10),
		"host = " + strings.Repeat("{a=", maxSize/4),
		strings.Repeat("\n", maxSize/2) + strings.Repeat("x\n", maxSize/4),
	} {
		start := time.Now()
		_, err := Parse("x.toml", []byte(text))
		var all Problems
		if !errors.As(err, &all) || len(all) > maxBroken+2 {
			t.Errorf("Parse(%.20q…) has %d problems, want 1 to %d", text, len(all), maxBroken+2)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("Parse(%.20q…) took %v", text, took)
		}
	}
}

func FuzzParse(f *testing.F) {
	p := full()
	f.Add(render(&p))
	for _, s := range []string{
		"", "host = \"h\"", "host = spark\nport = 0\n[modle]\n[model]\ncontext = \"64k\"\n", "a = [\n1,\n\"x\"", "\xef\xbb\xbfhost='h'\r\n",
		"host = \"h\"\nmodel = {\n context = 1, # c\n}\n[forward]\nalso = [\"[::1]:1:[::1]:2\"]\n", "[[model]]\n[a.\"b\"]\nx.y.z = 1979-05-27T07:32:00Z\n",
		"host = \"\"\"\n\\u00e9\"\"\"\n", "port = 0x_1\nhost = 'a'\n", "model.name = \"x\"\n[model]\n", "x = '''\n[model\n", "host = \"h\" ]\n[model]]\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("spark.toml", text)
		if err != nil {
			var all Problems
			if !errors.As(err, &all) || len(all) == 0 || p != nil {
				t.Fatalf("Parse is %v, %#v, want Problems alone", p, err)
			}
			last := 0
			for _, one := range all {
				if one.File != "spark.toml" || one.Msg == "" || one.Line < last || one.Line > bytes.Count(text, []byte("\n"))+1 {
					t.Fatalf("%d lines, a problem is %#v, the one before it on line %d", bytes.Count(text, []byte("\n"))+1, one, last)
				}
				if strings.ContainsFunc(one.Msg, func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Fatalf("control characters in %q", one.Msg)
				}
				last = one.Line
			}
			return
		}
		for _, a := range append(p.Forward.Also, Also(p.Forward.Listen+":localhost:1")) {
			if _, _, err := a.Split(); err != nil {
				t.Fatalf("Parse takes an address that Split does not: %v", err)
			}
		}
		again, err := Parse("spark.toml", render(p))
		if err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("written and read again: %+v, %v\nwant %+v\n%s", again, err, p, render(p))
		}
	})
}
