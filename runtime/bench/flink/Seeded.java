/** Random numbers that depend on a seed and an index only: those of `Random` of highwater-connectors. */
final class Seeded {
    static final long GAMMA = 0x9e3779b97f4a7c15L;

    private Seeded() {}

    static long mix(long value) {
        value = (value ^ (value >>> 30)) * 0xbf58476d1ce4e5b9L;
        value = (value ^ (value >>> 27)) * 0x94d049bb133111ebL;
        return value ^ (value >>> 31);
    }

    /** What {@link #state} takes. */
    static long mixed(long seed) {
        return mix(seed + GAMMA);
    }

    /** The stream of record `index`. */
    static long state(long mixed, long index) {
        return mix(mixed ^ (index * GAMMA));
    }

    /** The number `nth` of a stream, counted from 1. */
    static long bits(long state, long nth) {
        return mix(state + nth * GAMMA);
    }
}
