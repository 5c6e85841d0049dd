import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.api.java.tuple.Tuple2;

/**
 * Counts and folds, each subtask on its own; publishes now and then. What is folded is the digest of key and count, or
 * the second field as it is where that is a difference of digests already.
 */
final class Tally implements Sink<Tuple2<Long, Long>> {
    private final boolean isDelta;

    Tally(boolean isDelta) {
        this.isDelta = isDelta;
    }

    static long digestOf(long key, long count) {
        long mixed = (key * Seeded.GAMMA + count) * 0xbf58476d1ce4e5b9L;
        return mixed ^ (mixed >>> 32);
    }

    @Override
    public SinkWriter<Tuple2<Long, Long>> createWriter(WriterInitContext context) {
        return new SinkWriter<>() {
            private long records;
            private long digest;

            @Override
            public void write(Tuple2<Long, Long> counted, Context ignored) {
                digest += isDelta ? counted.f1 : digestOf(counted.f0, counted.f1);
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
