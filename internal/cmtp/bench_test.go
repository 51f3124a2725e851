package cmtp_test

import (
	"bytes"
	"io"
	"testing"

	"cmtpd/internal/cmtp"
)

func BenchmarkParseCommand(b *testing.B) {
	in := []byte("KEYREQUEST\x00alice\x00cref.example\x00")
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if cmd, _, err := cmtp.ParseCommand(in); err != nil || cmd.Verb != cmtp.KeyRequest {
			b.Fatal(cmd, err)
		}
	}
}

func BenchmarkMessageReader(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"4KiB", 4 << 10}, {"1MiB", 1 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			s := sealed()
			s.body, s.attachments = counted(c.size/2, 3), [][]byte{counted(c.size/2, 5)}
			in := s.bytes()
			src := bytes.NewReader(in)
			buf := make([]byte, 32<<10)
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				src.Reset(in)
				m, err := cmtp.NewMessageReader(src, 1<<30)
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = m.Read(buf)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				if _, err := m.Digest(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
