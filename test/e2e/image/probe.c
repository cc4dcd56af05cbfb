/* Shows how it was started: arguments, directory, environment. Ends with N where the last argument is exit=N. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
  const char *names[] = {"PATH", "GREETING", "ODD", "EMPTY"};
  char directory[4096];
  for (int i = 1; i < argc; i++) printf("argument [%s]\n", argv[i]);
  printf("directory [%s]\n", getcwd(directory, sizeof directory) ? directory : "?");
  for (int i = 0; i < 4; i++) {
    const char *value = getenv(names[i]);
    printf("%s [%s]\n", names[i], value ? value : "(unset)");
  }
  fflush(stdout);
  return argc > 1 && strncmp(argv[argc - 1], "exit=", 5) == 0 ? atoi(argv[argc - 1] + 5) : 0;
}
