/* The C library's resolver: prints the addresses of a name. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	if (argc != 2 || getaddrinfo(argv[1], 0, &hints, &found))
		return 1;
	for (; found; found = found->ai_next) {
		char text[INET6_ADDRSTRLEN];
		const void *address = found->ai_family == AF_INET
			? (const void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr
			: (const void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
		puts(inet_ntop(found->ai_family, address, text, sizeof text));
	}
	return 0;
}
