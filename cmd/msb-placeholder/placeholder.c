// msb-placeholder stands for a container on the host: a process that does nothing, with the
// container's root file system and in its network namespace. The shim starts it; it is not
// run by hand.
//
// There is one for each container, so it is small: C without a library, one thread, a few
// pages. It enters its jail as package vm/jail/entry says, and ends at a signal by which
// one asks a program to end. All signals are blocked and waited for: it is the first process
// of its pid namespace, for which the kernel drops those that would end it by default
// (pid_namespaces(7)).
#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n\thlt\n");

static long call(long number, long a, long b, long c, long d, long e) {
	long result;
	register long fourth __asm__("r10") = d;
	register long fifth __asm__("r8") = e;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth) : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl run\n\tbrk #0\n");

static long call(long number, long a, long b, long c, long d, long e) {
	register long result __asm__("x0") = a;
	register long second __asm__("x1") = b;
	register long third __asm__("x2") = c;
	register long fourth __asm__("x3") = d;
	register long fifth __asm__("x4") = e;
	register long which __asm__("x8") = number;
	__asm__ volatile("svc #0" : "+r"(result) : "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(which) : "memory");
	return result;
}
#else
#error "msb-placeholder has no system calls for this architecture"
#endif

static _Noreturn void end(int code) {
	for (;;) call(__NR_exit_group, code, 0, 0, 0, 0);
}

// fail says what went wrong, and ends.
static _Noreturn void fail(const char *reason) {
	long length = 0;
	while (reason[length]) length++;
	call(__NR_write, 2, (long)reason, length, 0, 0);
	end(1);
}

// take reads so many bytes.
static void take(int fd, void *buffer, unsigned long length) {
	for (char *at = buffer; length > 0;) {
		long n = call(__NR_read, fd, (long)at, length, 0, 0);
		if (n == -EINTR) continue;
		if (n <= 0) fail("msb-placeholder: the shim did not say that this is the jail\n");
		at += n;
		length -= n;
	}
}

// control is the descriptor that MSB_JAIL names, or -1.
static int control(char **environment) {
	static const char name[] = "MSB_JAIL=";
	for (; *environment; environment++) {
		const char *at = *environment;
		unsigned n = 0;
		while (name[n] && at[n] == name[n]) n++;
		if (name[n]) continue;
		int fd = -1;
		for (at += n; *at >= '0' && *at <= '9' && fd < 1000000; at++) fd = (fd < 0 ? 0 : fd * 10) + (*at - '0');
		return *at ? -1 : fd;
	}
	return -1;
}

// enter enters the jail: vm/jail/entry.
static void enter(int fd) {
	static struct sock_filter filter[BPF_MAXINSNS];
	unsigned short count;
	if (call(__NR_write, fd, (long)"L", 1, 0, 0) != 1) fail("msb-placeholder: talking to the shim failed\n");
	take(fd, &count, sizeof count);
	if (count > BPF_MAXINSNS) fail("msb-placeholder: the system call filter is too long\n");
	take(fd, filter, count * sizeof *filter);
	call(__NR_close, fd, 0, 0, 0, 0);
	if (count == 0) return;
	struct sock_fprog program = {count, filter};
	if (call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&program, 0, 0) != 0)
		fail("msb-placeholder: the kernel refused the system call filter\n");
}

// run is called with what the kernel leaves on the stack: the number of arguments, these,
// the environment (execve(2)).
__attribute__((used)) static _Noreturn void run(long *stack) {
	unsigned long all = ~0UL;
	unsigned long ending = 1UL << (SIGHUP - 1) | 1UL << (SIGINT - 1) | 1UL << (SIGQUIT - 1) | 1UL << (SIGTERM - 1);
	int fd = control((char **)(stack + stack[0] + 2));
	call(__NR_prctl, PR_SET_NAME, (long)"msb-placeholder", 0, 0, 0); // it is executed by a descriptor's number
	if (fd < 0) fail("msb-placeholder: this program is started by the shim; it is not run by hand\n");
	call(__NR_rt_sigprocmask, SIG_BLOCK, (long)&all, 0, sizeof all, 0);
	enter(fd);
	for (;;) {
		long signal = call(__NR_rt_sigtimedwait, (long)&ending, 0, 0, sizeof ending, 0);
		if (signal > 0) end(128 + (int)signal);
	}
}
