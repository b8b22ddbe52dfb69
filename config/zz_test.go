package config
import ("testing";"os")
func TestZZ(t *testing.T){
 m,d:=Load(os.Getenv("F"))
 d.WriteText(os.Stdout,os.Getenv("C")!="")
 if m!=nil { println("---unsupported"); m.Unsupported.WriteText(os.Stdout,false)}
}
