#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *greeting = getenv("GREETING");
    printf("%s: %s (uid %d)\n", greeting ? greeting : "hello", argc > 1 ? argv[1] : "nobody", (int)getuid());
    return 0;
}
