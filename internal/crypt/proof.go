package crypt

import "cmtpd/internal/address"

const proofLabel = "CMTP-1 auth\x00"

// A Role is what somebody proves to be.
type Role uint8

// The roles of a proof.
const (
	UserRole     Role = 1
	ServerRole   Role = 2
	RecoveryRole Role = 3
)

// A Proof is what a signature of AUTH covers, so that it is worth nothing on another
// connection, to another server or for another name (docs/protocol.md section 18).
type Proof struct {
	Role      Role
	Name      address.Address // the zero Account in ServerRole
	Server    address.Domain  // whom it is shown to
	Key       PublicKey       // that signs
	ServerKey PublicKey
	Binding   [32]byte // the channel's exporter value
}

func (p *Proof) text() []byte {
	b := append([]byte(proofLabel), byte(p.Role))
	b = append(append(b, p.Name.Account.String()...), 0)
	b = append(append(b, p.Name.Domain.String()...), 0)
	b = append(append(b, p.Server.String()...), 0)
	b = append(append(b, p.Key[:]...), p.ServerKey[:]...)
	return append(b, p.Binding[:]...)
}

// Sign makes the proof with the key that it names.
func (p *Proof) Sign(key *PrivateKey) Signature { return key.Sign(p.text()) }

// Verify reports whether sig proves p.
func (p *Proof) Verify(sig Signature) bool { return Verify(p.Key, p.text(), sig) }
