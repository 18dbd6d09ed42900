import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.serialization.BulkWriter;
import org.apache.flink.api.common.serialization.SimpleStringEncoder;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.connector.file.sink.FileSink;
import org.apache.flink.connector.file.src.FileSource;
import org.apache.flink.connector.file.src.reader.TextLineInputFormat;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.fs.FSDataOutputStream;
import org.apache.flink.core.fs.Path;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.util.Collector;

/**
 * The six jobs in Flink's DataStream API: FlinkPeer JOB INPUT_FOLDER OUT_FOLDER plain|tuned|spread TASKS RUNS RATE STAMP [HOST:PORT JAR].
 *
 * <p>Each run goes to OUT_FOLDER/N. It says `ready` when the JVM has come so far, and for each run `begin N` and `end N FIRST_NS
 * LAST_NS COMMITTED_NS`: when the first line was read, the last one handed to its file, and the last file committed.
 */
public final class FlinkPeer {
    /** Times of this JVM's run; a job on a cluster of processes cannot set them. */
    static final AtomicLong FIRST = new AtomicLong();
    static final AtomicLong LAST = new AtomicLong();

    static long now() {
        return System.currentTimeMillis() * 1_000_000;
    }

    /** Stands behind the source: notes when the first line came, and holds the task back to its part of the rate. */
    static final class Pace extends AbstractStreamOperator<String> implements OneInputStreamOperator<String, String> {
        private final long perSecond;
        private final boolean stamp;
        private transient long lines;
        private transient long began;
        private transient ListState<Long> kept;

        Pace(long perSecond, boolean stamp) {
            this.perSecond = perSecond;
            this.stamp = stamp;
        }

        /** After a failure it goes by the same schedule, and makes up for the time that was lost. */
        @Override
        public void initializeState(StateInitializationContext context) throws Exception {
            super.initializeState(context);
            kept = context.getOperatorStateStore().getListState(new ListStateDescriptor<>("schedule", Types.LONG));
            for (long value : kept.get()) {
                if (began == 0) {
                    began = value;
                } else {
                    lines = value;
                }
            }
        }

        @Override
        public void snapshotState(StateSnapshotContext context) throws Exception {
            super.snapshotState(context);
            kept.update(List.of(began, lines));
        }

        @Override
        public void processElement(StreamRecord<String> record) throws Exception {
            if (lines++ == 0) {
                FIRST.compareAndSet(0, now());
                began = System.currentTimeMillis();
            }
            if (perSecond > 0 && lines % 64 == 0) {
                long ahead = lines * 1000 / perSecond - (System.currentTimeMillis() - began);
                if (ahead > 1) {
                    Thread.sleep(ahead);
                }
            }
            // For the latency: when the line was read goes with it to the output.
            output.collect(stamp ? record.replace(record.getValue() + "\u0001" + System.currentTimeMillis()) : record);
        }
    }

    /** Stands before the sink, in its chain: at the end of the input all lines have been handed to their files. */
    static final class End extends AbstractStreamOperator<String> implements OneInputStreamOperator<String, String>, BoundedOneInput {
        @Override
        public void processElement(StreamRecord<String> record) {
            output.collect(record);
        }

        @Override
        public void endInput() {
            long time = now();
            LAST.accumulateAndGet(time, Math::max);
        }
    }

    /** Lines of text through a buffer: the row format writes twice per record to a local disk. */
    static final class Lines implements BulkWriter<String> {
        private final OutputStream out;
        private final byte[] buffer = new byte[1 << 16];
        private int used;

        Lines(FSDataOutputStream out) {
            this.out = out;
        }

        @Override
        public void addElement(String line) throws IOException {
            byte[] bytes = line.getBytes(StandardCharsets.UTF_8);
            if (used + bytes.length + 1 > buffer.length) {
                drain();
            }
            if (bytes.length >= buffer.length) {
                out.write(bytes);
            } else {
                System.arraycopy(bytes, 0, buffer, used, bytes.length);
                used += bytes.length;
            }
            buffer[used++] = '\n';
        }

        private void drain() throws IOException {
            out.write(buffer, 0, used);
            used = 0;
        }

        @Override
        public void flush() throws IOException {
            drain();
        }

        @Override
        public void finish() throws IOException {
            drain();
            out.flush();
        }
    }

    /** The running count of a key: one line for each update, as RainStorm's `count` gives. */
    static final class Count extends KeyedProcessFunction<String, String, String> {
        private transient ValueState<Long> state;

        @Override
        public void open(OpenContext context) {
            state = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG));
        }

        @Override
        public void processElement(String key, Context context, Collector<String> out) throws Exception {
            Long before = state.value();
            long count = before == null ? 1 : before + 1;
            state.update(count);
            out.collect(key + "\t" + count);
        }
    }

    static String firstWord(String line) {
        int from = 0;
        while (from < line.length() && (line.charAt(from) == ' ' || line.charAt(from) == '\t')) {
            from++;
        }
        int to = from;
        while (to < line.length() && line.charAt(to) != ' ' && line.charAt(to) != '\t') {
            to++;
        }
        return line.substring(from, to);
    }

    static String column(String line, int column) {
        int from = 0;
        for (int i = 0; i < column; i++) {
            from = line.indexOf('|', from) + 1;
            if (from == 0) {
                return "";
            }
        }
        int to = line.indexOf('|', from);
        return to < 0 ? line.substring(from) : line.substring(from, to);
    }

    static DataStream<String> job(String job, DataStream<String> lines) {
        switch (job) {
            case "T0":
            case "C0":
                return lines.map(line -> line).keyBy(line -> line).map(line -> line);
            case "T1":
                return lines.filter(line -> line.contains("static")).keyBy(line -> line).map(line -> line.replace("static", "STATIC"));
            case "C1":
                return lines.filter(line -> column(line, 14).equals("AIR"))
                        .keyBy(line -> line)
                        .map(line -> column(line, 0) + "|" + column(line, 1) + "|" + column(line, 5));
            case "T2":
                return lines.filter(line -> line.contains("static")).map(FlinkPeer::firstWord).keyBy(word -> word).process(new Count());
            case "C2":
                return lines.filter(line -> column(line, 8).equals("R")).map(line -> column(line, 2)).keyBy(key -> key).process(new Count());
            default:
                throw new IllegalArgumentException("there is no job " + job);
        }
    }

    public static void main(String[] args) {
        int code = 0;
        try {
            run(args);
        } catch (Exception error) {
            error.printStackTrace();
            code = 1;
        }
        // Threads of the MiniCluster may be left, and would keep the JVM.
        System.exit(code);
    }

    static void run(String[] args) throws Exception {
        String name = args[0];
        // `spread`: tuned, and the lines go from the sources to all tasks of stage 1, as they do in RainStorm; else they stay where they were read.
        boolean spread = args[3].equals("spread");
        boolean tuned = spread || args[3].equals("tuned");
        int tasks = Integer.parseInt(args[4]);
        int runs = Integer.parseInt(args[5]);
        long rate = Long.parseLong(args[6]);
        boolean stamp = Boolean.parseBoolean(args[7]);
        System.out.println("ready");
        for (int run = 0; run < runs; run++) {
            Path out = new Path(args[2], Integer.toString(run));
            Configuration conf = new Configuration();
            conf.setString("execution.checkpointing.storage", "filesystem");
            conf.setString("execution.checkpointing.dir", new Path("file://" + args[2], "checkpoints").toString());
            conf.setString("restart-strategy.type", "fixed-delay");
            // Until a dead TaskManager is noticed the job is given its slots again: without a pause all attempts are soon used up.
            conf.setString("restart-strategy.fixed-delay.attempts", "100000");
            conf.setString("restart-strategy.fixed-delay.delay", "100 ms");
            StreamExecutionEnvironment env;
            if (args.length > 9) {
                int colon = args[8].lastIndexOf(':');
                env = StreamExecutionEnvironment.createRemoteEnvironment(
                        args[8].substring(0, colon), Integer.parseInt(args[8].substring(colon + 1)), conf, args[9]);
            } else {
                // A MiniCluster of one TaskManager, made for each run. 64 MB, its default, are too few buffers from about 12 tasks on.
                conf.set(TaskManagerOptions.NETWORK_MEMORY_MIN, MemorySize.ofMebiBytes(256));
                conf.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.ofMebiBytes(256));
                env = StreamExecutionEnvironment.createLocalEnvironment(conf);
            }
            env.setParallelism(tasks);
            env.enableCheckpointing(1000, CheckpointingMode.EXACTLY_ONCE);
            if (tuned) {
                env.getConfig().enableObjectReuse();
            }
            FIRST.set(0);
            LAST.set(0);
            FileSource<String> source = FileSource.forRecordStreamFormat(new TextLineInputFormat(), new Path(args[1])).build();
            DataStream<String> lines = env.fromSource(source, WatermarkStrategy.noWatermarks(), "lines")
                    .transform("pace", Types.STRING, new Pace(rate == 0 ? 0 : Math.max(1, rate / tasks), stamp));
            FileSink<String> sink = tuned
                    ? FileSink.forBulkFormat(out, (BulkWriter.Factory<String>) Lines::new).build()
                    : FileSink.forRowFormat(out, new SimpleStringEncoder<String>()).build();
            job(name, spread ? lines.rebalance() : lines).transform("end", Types.STRING, new End()).sinkTo(sink);
            System.out.println("begin " + run);
            env.execute(name);
            System.out.println("end " + run + " " + FIRST.get() + " " + LAST.get() + " " + now());
        }
    }
}
