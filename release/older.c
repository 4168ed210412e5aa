/* What GCC's headers take from a newer libc or libstdc++ than manylinux_2_28 has; hidden, so that nobody else sees it. */
#define HIDDEN __attribute__((visibility("hidden")))

/* glibc 2.32; zero: there may be other threads */
extern HIDDEN char __libc_single_threaded;
char __libc_single_threaded = 0;

/* GCC 11: std::__throw_bad_array_new_length() falls back to std::__throw_bad_alloc() */
extern void _ZSt17__throw_bad_allocv(void);
HIDDEN void _ZSt28__throw_bad_array_new_lengthv(void);
void _ZSt28__throw_bad_array_new_lengthv(void) { _ZSt17__throw_bad_allocv(); }

/* GCC 9: the streams' constructors without arguments; the older ones take what the stream is open for */
enum { IN = 8, OUT = 16 };
#define STREAM(mangled, mode)                                                        \
  extern void mangled##ESt13_Ios_Openmode(void*, int);                               \
  HIDDEN void mangled##Ev(void*);                                                    \
  void mangled##Ev(void* stream) { mangled##ESt13_Ios_Openmode(stream, mode); }
STREAM(_ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1, IN | OUT)
STREAM(_ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1, OUT)
