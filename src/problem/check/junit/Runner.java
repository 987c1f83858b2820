import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.annotation.Annotation;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.Arrays;
import java.util.Comparator;

final class Runner {
    private static Throwable run(Class<?> type, Method test, Class<? extends Throwable> expected) {
        Throwable thrown = null;
        try {
            Object instance = type.getDeclaredConstructor().newInstance();
            all(type, instance, org.junit.Before.class);
            try {
                test.invoke(instance);
            } finally {
                all(type, instance, org.junit.After.class);
            }
        } catch (InvocationTargetException e) {
            thrown = e.getCause();
        } catch (Throwable e) {
            thrown = e;
        }
        if (expected == org.junit.Test.None.class) {
            return thrown;
        }
        return expected.isInstance(thrown) ? null : new AssertionError("expected " + expected.getName() + ", got " + thrown);
    }

    private static void all(Class<?> type, Object instance, Class<? extends Annotation> mark) throws Exception {
        for (Method method : type.getMethods()) {
            if (method.isAnnotationPresent(mark)) {
                method.invoke(instance);
            }
        }
    }

    private static void say(FileOutputStream out, String word, String rest) throws IOException {
        out.write(("\n" + word + " " + rest.replaceAll("\\s+", " ") + "\n").getBytes());
    }

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        String passed = in.readLine(), failed = in.readLine(), late = in.readLine(), end = in.readLine();
        FileOutputStream out = new FileOutputStream(FileDescriptor.out);
        ThreadMXBean clock = ManagementFactory.getThreadMXBean();
        Class<?> type = Class.forName(args[0], false, Runner.class.getClassLoader());
        Method[] methods = type.getMethods();
        Arrays.sort(methods, Comparator.comparing(Method::getName));
        all(type, null, org.junit.BeforeClass.class);
        for (Method method : methods) {
            org.junit.Test test = method.getAnnotation(org.junit.Test.class);
            if (test == null || method.isAnnotationPresent(org.junit.Ignore.class)) {
                continue;
            }
            Throwable[] thrown = new Throwable[1];
            Thread thread = new Thread(null, () -> thrown[0] = run(type, method, test.expected()), "test", 8 << 20);
            thread.setDaemon(true);
            long start = System.nanoTime(), limit = test.timeout() * 1_000_000L;
            thread.start();
            thread.join(test.timeout());
            // On a loaded machine the clock runs faster than the test can.
            while (thread.isAlive() && clock.getThreadCpuTime(thread.getId()) < limit && System.nanoTime() - start < 4 * limit) {
                thread.join(50);
            }
            if (thread.isAlive()) {
                say(out, late, method.getName() + ": not done after " + test.timeout() + " ms");
                Runtime.getRuntime().halt(1);
            }
            if (thrown[0] != null) {
                say(out, failed, method.getName() + ": " + thrown[0]);
                Runtime.getRuntime().halt(1);
            }
            say(out, passed, method.getName());
        }
        say(out, end, "");
        Runtime.getRuntime().halt(0);
    }
}
