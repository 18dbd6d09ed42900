/* Networks for nodes on one machine: a network namespace for each, joined by this program, which passes their packets on, or
 * loses them, holds them back, sends them twice, as it is told on standard input. When it ends, all is gone.
 *
 * switch PREFIX FIRST N: nodes have the addresses PREFIX.FIRST and so on. It prints the pid of a process in each namespace, then
 * answers each line of input:
 *   cut I        nothing passes to or from node I (from 0) any more
 *   mend I       it does again
 *   loss L R D   of 100 packets L are lost, R are held back by 1 to 8 ms, D come twice
 *   counts       prints passed, lost, held back, doubled
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define MOST 32
#define HELD 4096

static int tun[MOST], is_cut[MOST], nodes, first;
static int lose, hold, twice;
static long passed, lost, held_back, doubled;
static struct { double due; int to, len; unsigned char data[2048]; } held[HELD];
static int held_len;

static void die(const char *what) { perror(what); exit(1); }

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void make_node(const char *prefix, int n)
{
	char text[256];
	int go[2];
	if (pipe(go)) die("pipe");
	pid_t pid = fork();
	if (pid < 0) die("fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWNET)) die("unshare");
		if (write(go[1], "", 1) != 1) exit(1);
		close(0); close(1); close(2);
		for (;;) pause();
	}
	close(go[1]);
	if (read(go[0], text, 1) != 1) exit(1);
	close(go[0]);
	snprintf(text, sizeof text, "/proc/%d/ns/net", pid);
	int ns = open(text, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET)) die("setns");
	close(ns);
	tun[n] = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (tun[n] < 0) die("/dev/net/tun");
	struct ifreq want = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	strcpy(want.ifr_name, "node");
	if (ioctl(tun[n], TUNSETIFF, &want)) die("TUNSETIFF");
	snprintf(text, sizeof text,
		"ip link set lo up && ip addr add %s.%d/24 dev node && ip link set node up txqueuelen 4000", prefix, first + n);
	if (system(text)) { fprintf(stderr, "failed: %s\n", text); exit(1); }
	printf("%d\n", pid);
}

static void send_to(int to, const unsigned char *data, int len)
{
	/* A full queue loses packets, as a real network does. */
	if (write(tun[to], data, len) == len) passed++;
}

static int chance(int percent) { return percent > 0 && random() % 100 < percent; }

static void pass(int from, const unsigned char *data, int len)
{
	int to = len >= 20 && data[0] >> 4 == 4 ? data[19] - first : -1;
	if (to < 0 || to >= nodes || to == from) return;
	if (is_cut[from] || is_cut[to] || chance(lose)) { lost++; return; }
	if (chance(hold) && held_len < HELD) {
		held[held_len].due = now() + 0.001 + random() % 7000 / 1e6;
		held[held_len].to = to;
		held[held_len].len = len;
		memcpy(held[held_len++].data, data, len);
		held_back++;
		return;
	}
	send_to(to, data, len);
	if (chance(twice)) { send_to(to, data, len); doubled++; }
}

static void release(void)
{
	double t = now();
	for (int i = 0; i < held_len;) {
		if (held[i].due > t) { i++; continue; }
		if (!is_cut[held[i].to]) send_to(held[i].to, held[i].data, held[i].len);
		if (i != --held_len) held[i] = held[held_len];
	}
}

static void hear(char *line)
{
	int n, a, b, c;
	if (sscanf(line, "cut %d", &n) == 1 && n >= 0 && n < nodes) is_cut[n] = 1;
	else if (sscanf(line, "mend %d", &n) == 1 && n >= 0 && n < nodes) is_cut[n] = 0;
	else if (sscanf(line, "loss %d %d %d", &a, &b, &c) == 3) lose = a, hold = b, twice = c;
	else if (strncmp(line, "counts", 6)) { printf("what?\n"); return; }
	printf("%ld %ld %ld %ld\n", passed, lost, held_back, doubled);
}

int main(int argc, char **argv)
{
	if (argc != 4) return 2;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	first = atoi(argv[2]);
	nodes = atoi(argv[3]);
	if (nodes < 1 || nodes > MOST) return 2;
	for (int n = 0; n < nodes; n++) make_node(argv[1], n);
	struct pollfd fds[MOST + 1];
	for (int n = 0; n < nodes; n++) fds[n] = (struct pollfd){ tun[n], POLLIN, 0 };
	fds[nodes] = (struct pollfd){ 0, POLLIN, 0 };
	unsigned char data[2048];
	for (;;) {
		if (poll(fds, nodes + 1, held_len ? 1 : -1) < 0) die("poll");
		for (int n = 0; n < nodes; n++)
			for (int k = 0; fds[n].revents && k < 64; k++) {
				int len = read(tun[n], data, sizeof data);
				if (len <= 0) break;
				pass(n, data, len);
			}
		release();
		if (fds[nodes].revents) {
			char line[128];
			if (!fgets(line, sizeof line, stdin)) return 0;
			hear(line);
		}
	}
}
