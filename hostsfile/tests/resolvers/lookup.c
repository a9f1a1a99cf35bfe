/* Looks up each line of standard input as a name, as getent(1) does for `ahosts`, and prints the addresses for IPv4, IPv6 and both. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

static void answer(const char *name, int family)
{
	struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME };
	struct addrinfo *list = NULL;
	if (getaddrinfo(name, NULL, &hints, &list) != 0)
		return;
	for (struct addrinfo *p = list; p != NULL; p = p->ai_next) {
		char text[INET6_ADDRSTRLEN];
		const void *address = p->ai_family == AF_INET
			? (const void *)&((struct sockaddr_in *)p->ai_addr)->sin_addr
			: (const void *)&((struct sockaddr_in6 *)p->ai_addr)->sin6_addr;
		printf(" %s", inet_ntop(p->ai_family, address, text, sizeof text));
	}
	freeaddrinfo(list);
}

int main(void)
{
	char *name = NULL;
	size_t size = 0;
	ssize_t length;
	while ((length = getline(&name, &size, stdin)) > 0) {
		name[length - 1] = '\0';
		answer(name, AF_INET);
		putchar('|');
		answer(name, AF_INET6);
		putchar('|');
		answer(name, AF_UNSPEC);
		putchar('\n');
		fflush(stdout);
	}
	return 0;
}
