// The instruction sets, best first. They are listed only here: listed.py reads these lines for setup.py and scripts.
//
//   INVOLUTION_SET(name, architecture, F(feature) ...)
//
// The architecture is `any` for all of them. A feature is both the compiler flag -mfeature and the processor feature
// checked at run time.
INVOLUTION_SET(avx512, x86_64, F(avx2) F(fma) F(f16c) F(avx512f) F(avx512vl) F(avx512bw) F(avx512dq))
INVOLUTION_SET(avx2, x86_64, F(avx2) F(fma) F(f16c))
INVOLUTION_SET(baseline, any, )
