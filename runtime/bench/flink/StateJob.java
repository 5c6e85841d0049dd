import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * The peer of the job `state` of highwater-bench: the same payments from the same seed, the same account of 64 bytes for
 * each key, the same digest and the same report. Arguments: count= (even), keys=, seed=, report=, ranks= (a file; without
 * it keys are uniform); every other name=value is a key of Flink.
 */
public final class StateJob {
    private static final int FIELDS = 8;

    /** Makes payment `index`: each key once, then keys by their popularity. */
    static final class Payments implements MapFunction<Long, Tuple2<Long, Long>> {
        private final long mixed;
        private final long keys;
        private final long half;
        private final long[] ranks;
        private final Tuple2<Long, Long> out = new Tuple2<>();

        Payments(long seed, long keys, long count, long[] ranks) {
            this.mixed = Seeded.mixed(seed);
            this.keys = keys;
            this.half = count / 2;
            this.ranks = ranks;
        }

        private long scattered(long rank) {
            return rank * 2654435761L % keys;
        }

        @Override
        public Tuple2<Long, Long> map(Long position) {
            // The source gives each half of the numbers to one subtask: dealt out like cards, all keys come first.
            long index = position < half ? 2 * position : 2 * (position - half) + 1;
            long state = Seeded.state(mixed, index);
            long bits = Seeded.bits(state, 1);
            long key;
            if (index < keys) {
                key = scattered(index);
            } else if (ranks == null) {
                key = ((bits >>> 32) * keys) >>> 32;
            } else {
                int slot = (int) (bits >>> 48);
                long first = ranks[slot];
                long span = Math.max(ranks[slot + 1] - first, 1);
                key = scattered(first + (((bits & 0xffffffffL) * span) >>> 32));
            }
            out.f0 = key;
            out.f1 = Seeded.bits(state, 2) >>> 32;
            return out;
        }
    }

    static long digestOf(long key, long[] account) {
        long sum = key * Seeded.GAMMA;
        for (int field = 0; field < FIELDS; field++) {
            sum += account[field] * (Seeded.GAMMA * (2 * field + 3));
        }
        sum = (sum ^ (sum >>> 29)) * 0xbf58476d1ce4e5b9L;
        return sum ^ (sum >>> 32);
    }

    /** Reads, changes and writes the account of a key; gives out by how much the digest of all accounts has grown. */
    static final class Book extends KeyedProcessFunction<Long, Tuple2<Long, Long>, Tuple2<Long, Long>> {
        private transient ValueState<long[]> state;
        private transient Tuple2<Long, Long> out;

        @Override
        public void open(OpenContext context) {
            var type = PrimitiveArrayTypeInfo.LONG_PRIMITIVE_ARRAY_TYPE_INFO;
            state = getRuntimeContext().getState(new ValueStateDescriptor<>("account", type));
            out = new Tuple2<>();
        }

        @Override
        public void processElement(
                Tuple2<Long, Long> payment, Context context, Collector<Tuple2<Long, Long>> collector) throws Exception {
            long key = payment.f0;
            long amount = payment.f1;
            long[] account = state.value();
            long before = 0;
            if (account == null) {
                account = new long[FIELDS];
                account[2] = Long.MAX_VALUE;
            } else {
                before = digestOf(key, account);
            }
            account[0] += 1;
            account[1] += amount;
            account[2] = Math.min(account[2], amount);
            account[3] = Math.max(account[3], amount);
            account[4] += amount * amount;
            account[5] ^= amount * Seeded.GAMMA;
            account[6] += amount & 0xffff;
            account[7] += amount >>> 16;
            state.update(account);
            out.f0 = key;
            out.f1 = digestOf(key, account) - before;
            collector.collect(out);
        }
    }

    private static long[] ranks(String file) throws Exception {
        if (file == null) {
            return null;
        }
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(Path.of(file))).order(ByteOrder.LITTLE_ENDIAN);
        long[] ranks = new long[bytes.remaining() / 8];
        bytes.asLongBuffer().get(ranks);
        return ranks;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> given = new HashMap<>();
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            given.put(parts[0], parts[1]);
        }
        long count = Long.parseLong(given.remove("count"));
        long keys = Long.parseLong(given.remove("keys"));
        long seed = Long.parseLong(given.remove("seed"));
        long[] ranks = ranks(given.remove("ranks"));
        Report.open(given.remove("report"));
        var env = StreamExecutionEnvironment.getExecutionEnvironment(Configuration.fromMap(given));
        TypeInformation<Tuple2<Long, Long>> pair = Types.TUPLE(Types.LONG, Types.LONG);
        DataStream<Tuple2<Long, Long>> payments =
                env.fromSequence(0, count - 1).map(new Payments(seed, keys, count, ranks)).returns(pair);
        payments.keyBy(payment -> payment.f0, Types.LONG).process(new Book()).returns(pair).sinkTo(new Tally(true));
        env.execute("state");
        Report.end();
        System.exit(0);
    }
}
