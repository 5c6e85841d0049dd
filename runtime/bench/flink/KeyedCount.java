import java.io.FileWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * The peer of the jobs `count` and `generate` of highwater-bench: the same keys from the same seed, the same count, the
 * same digest and the same report. Arguments: job=, count=, keys=, seed=, report=; every other name=value is a key of
 * Flink.
 */
public final class KeyedCount {
    private static final long GAMMA = 0x9e3779b97f4a7c15L;

    static long mix(long value) {
        value = (value ^ (value >>> 30)) * 0xbf58476d1ce4e5b9L;
        value = (value ^ (value >>> 27)) * 0x94d049bb133111ebL;
        return value ^ (value >>> 31);
    }

    /** The key of record `index`; `mixed` is mix(seed + GAMMA). */
    static long keyOf(long mixed, long index, long keys) {
        long bits = mix(mix(mixed ^ (index * GAMMA)) + GAMMA);
        return ((bits >>> 32) * keys) >>> 32;
    }

    static long digestOf(long key, long count) {
        long mixed = (key * GAMMA + count) * 0xbf58476d1ce4e5b9L;
        return mixed ^ (mixed >>> 32);
    }

    static final class Count extends KeyedProcessFunction<Long, Long, Tuple2<Long, Long>> {
        private transient ValueState<Long> state;
        private transient Tuple2<Long, Long> out;

        @Override
        public void open(OpenContext context) {
            state = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
            out = new Tuple2<>();
        }

        @Override
        public void processElement(Long key, Context context, Collector<Tuple2<Long, Long>> collector)
                throws Exception {
            Long held = state.value();
            long count = held == null ? 1 : held + 1;
            state.update(count);
            // With object reuse the collector takes a record that is used again.
            out.f0 = key;
            out.f1 = count;
            collector.collect(out);
        }
    }

    /** Counts and folds, each subtask on its own; publishes now and then. */
    static final class Tally implements Sink<Tuple2<Long, Long>> {
        @Override
        public SinkWriter<Tuple2<Long, Long>> createWriter(WriterInitContext context) {
            return new SinkWriter<>() {
                private long records;
                private long digest;

                @Override
                public void write(Tuple2<Long, Long> counted, Context ignored) {
                    digest += digestOf(counted.f0, counted.f1);
                    if ((++records & 1023) == 0 || !Report.STARTED.get()) {
                        publish();
                    }
                }

                private void publish() {
                    Report.count(records, digest);
                    records = 0;
                    digest = 0;
                }

                @Override
                public void flush(boolean endOfInput) {
                    publish();
                }

                @Override
                public void close() {
                    publish();
                }
            };
        }
    }

    /** The file that the benchmark reads; its lines are those of the other side. */
    static final class Report {
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

    public static void main(String[] arguments) throws Exception {
        Map<String, String> given = new HashMap<>();
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            given.put(parts[0], parts[1]);
        }
        String job = given.remove("job");
        long count = Long.parseLong(given.remove("count"));
        long keys = Long.parseLong(given.remove("keys"));
        long mixed = mix(Long.parseLong(given.remove("seed")) + GAMMA);
        Report.open(given.remove("report"));
        var env = StreamExecutionEnvironment.getExecutionEnvironment(Configuration.fromMap(given));
        DataStream<Long> stream = env.fromSequence(0, count - 1)
                .map(index -> keyOf(mixed, index, keys)).returns(Types.LONG);
        DataStream<Tuple2<Long, Long>> counted = job.equals("count")
                ? stream.keyBy(key -> key, Types.LONG).process(new Count()).returns(Types.TUPLE(Types.LONG, Types.LONG))
                : stream.map(key -> Tuple2.of(key, 1L)).returns(Types.TUPLE(Types.LONG, Types.LONG));
        counted.sinkTo(new Tally());
        env.execute(job);
        Report.end();
        System.exit(0);
    }
}
