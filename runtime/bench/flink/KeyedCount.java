import java.util.HashMap;
import java.util.Map;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
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
    /** The key of record `index`; `mixed` is Seeded.mixed(seed). */
    static long keyOf(long mixed, long index, long keys) {
        long bits = Seeded.bits(Seeded.state(mixed, index), 1);
        return ((bits >>> 32) * keys) >>> 32;
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

    public static void main(String[] arguments) throws Exception {
        Map<String, String> given = new HashMap<>();
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            given.put(parts[0], parts[1]);
        }
        String job = given.remove("job");
        long count = Long.parseLong(given.remove("count"));
        long keys = Long.parseLong(given.remove("keys"));
        long mixed = Seeded.mixed(Long.parseLong(given.remove("seed")));
        Report.open(given.remove("report"));
        var env = StreamExecutionEnvironment.getExecutionEnvironment(Configuration.fromMap(given));
        DataStream<Long> stream = env.fromSequence(0, count - 1)
                .map(index -> keyOf(mixed, index, keys)).returns(Types.LONG);
        DataStream<Tuple2<Long, Long>> counted = job.equals("count")
                ? stream.keyBy(key -> key, Types.LONG).process(new Count()).returns(Types.TUPLE(Types.LONG, Types.LONG))
                : stream.map(key -> Tuple2.of(key, 1L)).returns(Types.TUPLE(Types.LONG, Types.LONG));
        counted.sinkTo(new Tally(false));
        env.execute(job);
        Report.end();
        System.exit(0);
    }
}
