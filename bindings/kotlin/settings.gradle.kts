rootProject.name = "devbox"
