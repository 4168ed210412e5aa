// The instruction sets, the best first. They are listed here and nowhere else: setup.py and the scripts read these
// lines, too.
//
//   INVOLUTION_SET(name, architecture, F(feature) ...)
//
// The architecture is `any` for all. A feature is the compiler's flag -mfeature, and what the processor is asked for.
INVOLUTION_SET(avx512, x86_64, F(avx2) F(fma) F(f16c) F(avx512f) F(avx512vl) F(avx512bw) F(avx512dq))
INVOLUTION_SET(avx2, x86_64, F(avx2) F(fma) F(f16c))
INVOLUTION_SET(baseline, any, )
