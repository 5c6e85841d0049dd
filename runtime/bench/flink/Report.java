import java.io.FileWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

/** The file that the benchmark reads; its lines are those of the other side. */
final class Report {
    static final AtomicBoolean STARTED = new AtomicBoolean();
    private static final AtomicLong RECORDS = new AtomicLong();
    private static final AtomicLong DIGEST = new AtomicLong();
    private static FileWriter file;

    static void open(String path) throws IOException {
        file = new FileWriter(path);
        Thread sampler = new Thread(() -> {
            while (true) {
                try {
                    Thread.sleep(100);
                } catch (InterruptedException end) {
                    return;
                }
                note("at " + RECORDS.get() + " " + cpuMillis() + " " + unixNanos());
            }
        }, "report");
        sampler.setDaemon(true);
        sampler.start();
    }

    static void count(long records, long digest) {
        if (records == 0) {
            return;
        }
        RECORDS.addAndGet(records);
        DIGEST.addAndGet(digest);
        if (!STARTED.get() && STARTED.compareAndSet(false, true)) {
            note("first " + unixNanos());
        }
    }

    static void end() throws IOException {
        String status = Files.readString(Path.of("/proc/self/status"));
        String peak = status.lines().filter(line -> line.startsWith("VmHWM:")).findFirst().orElseThrow()
                .replaceAll("[^0-9]", "");
        note(String.format("end %d %016x %s", RECORDS.get(), DIGEST.get(), peak));
    }

    private static synchronized void note(String line) {
        try {
            file.write(line + "\n");
            file.flush();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static long cpuMillis() {
        var bean = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        return bean.getProcessCpuTime() / 1_000_000;
    }

    private static long unixNanos() {
        Instant now = Instant.now();
        return now.getEpochSecond() * 1_000_000_000L + now.getNano();
    }
}
