// The same module as pom.xml, for Gradle 8.5 or newer. `cargo xtask bindings --test` tests the Maven one.
plugins {
    kotlin("jvm") version "2.2.20"
    `java-library`
    `maven-publish`
}

group = "io.github.devbox-rs"
version = "0.1.0"

repositories {
    mavenCentral()
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.10.2")
    implementation("net.java.dev.jna:jna:5.17.0")
    testImplementation("org.junit.jupiter:junit-jupiter:5.11.4")
}

kotlin {
    jvmToolchain(17)
}

// The native library as JNA names systems, `linux-x86-64/libdevbox_ffi.so` and the like: -Pdevbox.native=FOLDER.
sourceSets.main {
    resources.srcDir(providers.gradleProperty("devbox.native").orElse("native"))
}

tasks.test {
    useJUnitPlatform()
}

publishing {
    publications.create<MavenPublication>("maven") {
        from(components["java"])
    }
}
