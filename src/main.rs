fn main() {
    shale::worker::hook();
}
