package cmtp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// A formCase is a form in its fields, each of which a test may exchange.
type formCase map[string][]byte

func registerFields() formCase {
	st := statement("cref.example", "alice", counted(32, 3))
	return formCase{
		"c label": st[:11], "d domain": st[11:24], "e account": st[24:30], "f tail": st[30:], "g zeros": make([]byte, 64), "h possession": counted(64, 5),
		"i xzibit": block(someXzibit()), "j copy": block(counted(8, 7)), "k end": nil,
	}
}

func uploadFields(key bool) formCase {
	f := registerFields()
	f["a digest"], f["b flag"], f["g zeros"] = counted(32, 9), []byte{1}, counted(64, 11)
	if !key {
		f["b flag"] = []byte{0}
		for _, name := range []string{"c label", "d domain", "e account", "f tail", "g zeros", "h possession"} {
			delete(f, name)
		}
	}
	return f
}

// bytes joins the fields in the order of their names.
func (f formCase) bytes() []byte {
	var names []string
	for name := range f {
		names = append(names, name)
	}
	slices.Sort(names)
	var b []byte
	for _, name := range names {
		b = append(b, f[name]...)
	}
	return b
}

func (f formCase) with(name string, field []byte) []byte {
	f[name] = field
	return f.bytes()
}

func register(b []byte) ([]byte, error) {
	f, err := cmtp.ParseRegisterForm(b)
	if err != nil {
		return nil, err
	}
	return f.Append(nil), nil
}

func upload(b []byte) ([]byte, error) {
	f, err := cmtp.ParseUploadForm(b)
	if err != nil {
		return nil, err
	}
	return f.Append(nil), nil
}

func TestForms(t *testing.T) {
	nonzero := append(make([]byte, 63), 1)
	name255, secret := append([]byte(param255), 0), make([]byte, cmtp.MaxXzibit)
	tooLong := block(make([]byte, cmtp.MaxXzibit+1))
	for name, c := range map[string]struct {
		parse func([]byte) ([]byte, error)
		form  []byte
		ok    bool
	}{
		"Register":          {register, registerFields().bytes(), true},
		"NoCopy":            {register, registerFields().with("j copy", block(nil)), true},
		"NoAccount":         {register, registerFields().with("e account", []byte{0}), true},
		"LongestName":       {register, registerFields().with("e account", name255), true},
		"LongestXzibit":     {register, registerFields().with("i xzibit", block(secret)), true},
		"LongestCopy":       {register, registerFields().with("j copy", block(secret)), true},
		"Upload":            {upload, uploadFields(true).bytes(), true},
		"UploadNoKey":       {upload, uploadFields(false).bytes(), true},
		"UploadNoCopy":      {upload, uploadFields(false).with("j copy", block(nil)), true},
		"UploadLongest":     {upload, uploadFields(true).with("i xzibit", block(secret)), true},
		"UploadZeroOldSig":  {upload, uploadFields(true).with("g zeros", make([]byte, 64)), true},
		"NotZero":           {register, registerFields().with("g zeros", nonzero), false},
		"OtherLabel":        {register, registerFields().with("c label", []byte("CMTP-2 key\x00")), false},
		"LabelNoNUL":        {register, registerFields().with("c label", []byte("CMTP-1 key ")), false},
		"DomainTooLong":     {register, registerFields().with("d domain", append([]byte("p"), name255...)), false},
		"AccountTooLong":    {register, registerFields().with("e account", append([]byte("p"), name255...)), false},
		"DomainUpperCase":   {register, registerFields().with("d domain", []byte("Cref.example\x00")), false},
		"DomainNotUTF8":     {register, registerFields().with("d domain", []byte("\xff\x00")), false},
		"AccountNotUTF8":    {register, registerFields().with("e account", []byte("a\xc3\x00")), false},
		"NoXzibit":          {register, registerFields().with("i xzibit", block(nil)), false},
		"XzibitTooLong":     {register, registerFields().with("i xzibit", tooLong), false},
		"CopyTooLong":       {register, registerFields().with("j copy", tooLong), false},
		"XzibitPastEnd":     {register, registerFields().with("i xzibit", []byte{0, 1, 0, 0}), false},
		"LargestLength":     {register, registerFields().with("j copy", []byte{255, 255, 255, 255}), false},
		"Behind":            {register, registerFields().with("k end", []byte{0}), false},
		"UploadBehind":      {upload, uploadFields(false).with("k end", []byte{0}), false},
		"UploadFlag2":       {upload, uploadFields(true).with("b flag", []byte{2}), false},
		"UploadFlag2NoKey":  {upload, uploadFields(false).with("b flag", []byte{2}), false},
		"UploadFlag129":     {upload, uploadFields(false).with("b flag", []byte{129}), false},
		"UploadFlagTooMuch": {upload, uploadFields(true).with("b flag", []byte{0}), false},
		"UploadFlagTooFew":  {upload, uploadFields(false).with("b flag", []byte{1}), false},
		"UploadNoXzibit":    {upload, uploadFields(false).with("i xzibit", block(nil)), false},
		"UploadCopyTooLong": {upload, uploadFields(false).with("j copy", tooLong), false},
		"RegisterIsNone":    {register, uploadFields(false).bytes(), false},
		"UploadIsNone":      {upload, registerFields().bytes(), false},
	} {
		t.Run(name, func(t *testing.T) {
			again, err := c.parse(c.form)
			if c.ok && (err != nil || !bytes.Equal(again, c.form)) {
				t.Errorf("%v, encodes again to %d of %d bytes", err, len(again), len(c.form))
			}
			if !c.ok && !errors.Is(err, cmtp.ErrForm) {
				t.Errorf("the error is %v, want ErrForm", err)
			}
			if !c.ok {
				return
			}
			for n := range min(len(c.form), 500) {
				if _, err := c.parse(c.form[:n]); !errors.Is(err, cmtp.ErrForm) {
					t.Fatalf("cut after %d of %d bytes: %v", n, len(c.form), err)
				}
			}
			if _, err := c.parse(c.form[:len(c.form)-1]); !errors.Is(err, cmtp.ErrForm) {
				t.Errorf("without its last byte: %v", err)
			}
		})
	}
}

// A server tells a statement that is refused from a form that cannot be read.
func TestForms_StatementError(t *testing.T) {
	_, err := register(registerFields().with("d domain", []byte("Cref.example\x00")))
	_, err2 := upload(uploadFields(true).with("f tail", make([]byte, 77)))
	if !errors.Is(err, crypt.ErrStatement) || !errors.Is(err2, crypt.ErrStatement) {
		t.Errorf("%v, %v", err, err2)
	}
	if _, err := register(registerFields().with("k end", []byte{0})); errors.Is(err, crypt.ErrStatement) {
		t.Error(err)
	}
}

// The fields are parts of the form, without room into which an append would write over
// what follows.
func TestForms_FieldsAreClosed(t *testing.T) {
	form := uploadFields(true).bytes()
	whole := bytes.Clone(form)
	f, err := cmtp.ParseUploadForm(form)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(f.Xzibit, "x"...)
	if !bytes.Equal(form, whole) {
		t.Error("the form was written over")
	}
}

// The bounds are the document's, and an xzibit's are those of its own package.
func TestForms_Bounds(t *testing.T) {
	limits := document(t, "## 21. ", "## 22. ")
	if cmtp.MaxForm != 135168 || !strings.Contains(limits, "\n| form | 135,168 bytes |\n") {
		t.Errorf("a form has %d bytes", cmtp.MaxForm)
	}
	if cmtp.MaxReason != 1023 || !strings.Contains(limits, "\n| reason of a failure | 1,023 bytes |\n") {
		t.Errorf("a reason has %d bytes", cmtp.MaxReason)
	}
	if cmtp.MaxXzibit != xzibit.MaxSize {
		t.Errorf("a xzibit has %d bytes, and %d", cmtp.MaxXzibit, xzibit.MaxSize)
	}
}

// Whatever fits its own bounds fits a form.
func TestForms_LargestFits(t *testing.T) {
	secret := block(make([]byte, cmtp.MaxXzibit))
	f := uploadFields(true)
	f["d domain"] = []byte(strings.Repeat(strings.Repeat("d", 61)+".", 4) + "exam\x00")
	f["e account"] = append([]byte(param255), 0)
	f["i xzibit"], f["j copy"] = secret, secret
	if _, err := upload(f.bytes()); err != nil || len(f.bytes()) > cmtp.MaxForm {
		t.Errorf("the largest form has %d bytes, %v", len(f.bytes()), err)
	}
}

func TestReadForm(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, cmtp.MaxForm} {
		form := counted(n, 7)
		for name, segment := range segmentations {
			src := &source{Reader: segment(bytes.NewReader(append(cmtp.AppendForm(nil, form), sentinel...)))}
			got, err := cmtp.ReadForm(src)
			if err != nil || !bytes.Equal(got, form) || src.taken != 4+n {
				t.Errorf("%s: %d of %d bytes, %d taken, %v", name, len(got), n, src.taken, err)
			}
		}
	}
}

func TestReadForm_Refusals(t *testing.T) {
	for _, n := range []uint32{cmtp.MaxForm + 1, 1<<32 - 1} {
		src := &source{Reader: io.MultiReader(bytes.NewReader(binary.BigEndian.AppendUint32(nil, n)), generator(0))}
		cmtptest.Bounded(t, 32<<10, func() {
			if form, err := cmtp.ReadForm(src); !errors.Is(err, cmtp.ErrTooLarge) || form != nil {
				t.Errorf("a form of %d bytes: %v", n, err)
			}
		})
		if src.taken != 4 {
			t.Errorf("%d bytes were taken", src.taken)
		}
	}
	broken := errors.New("the line is broken")
	whole := cmtp.AppendForm(nil, counted(5000, 3))
	for _, n := range []int{0, 1, 3, 4, 5, 4099, 4100, 4101, len(whole) - 1} {
		if _, err := cmtp.ReadForm(bytes.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
		if _, err := cmtp.ReadForm(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("broken after %d bytes: %v", n, err)
		}
	}
	// Who announces the longest form and sends little of it costs little.
	few := append(binary.BigEndian.AppendUint32(nil, cmtp.MaxForm), "few"...)
	cmtptest.Bounded(t, 32<<10, func() { _, _ = cmtp.ReadForm(bytes.NewReader(few)) })
}

// fuzzForm: a form that is accepted encodes again identically. Its callers see to it
// that parsing costs no more than the names of a statement do.
func fuzzForm(t *testing.T, in []byte, parse func([]byte) ([]byte, error)) {
	before := bytes.Clone(in)
	again, err := parse(in)
	if !bytes.Equal(in, before) {
		t.Fatal("the form was changed")
	}
	if err != nil {
		if verdict(t, err) != cmtp.ErrForm || strings.ContainsAny(err.Error(), "\x00\n\x1b") {
			t.Fatalf("%q", err)
		}
	} else if !bytes.Equal(again, in) {
		t.Fatalf("%x encodes again to %x", in, again)
	}
}

func FuzzRegisterForm(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		cmtptest.Bounded(t, 64<<10, func() { _, _ = cmtp.ParseRegisterForm(in) })
		fuzzForm(t, in, register)
	})
}

func FuzzUploadForm(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte) {
		cmtptest.Bounded(t, 64<<10, func() { _, _ = cmtp.ParseUploadForm(in) })
		fuzzForm(t, in, upload)
	})
}
