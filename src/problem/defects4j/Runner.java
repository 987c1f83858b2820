import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.List;
import org.junit.runner.JUnitCore;
import org.junit.runner.Request;
import org.junit.runner.Result;

/** Runs the tests that standard input names, a line each: what to report it under, its class, its method or `-`. */
class Runner {
    public static void main(String[] args) throws Exception {
        PrintStream reports = System.out;
        List<String[]> tests = new ArrayList<String[]>();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            tests.add(line.split(" ", 3));
        }
        // What tests print is nobody's report.
        OutputStream nowhere = new OutputStream() {
            @Override
            public void write(int b) {
            }

            @Override
            public void write(byte[] bytes, int from, int count) {
            }
        };
        System.setOut(new PrintStream(nowhere));
        System.setErr(new PrintStream(nowhere));
        for (String[] test : tests) {
            reports.println(test[0] + " " + report(test[1], test[2]));
            reports.flush();
        }
        // Threads that a test has left behind do not keep us.
        Runtime.getRuntime().halt(0);
    }

    private static String report(String name, String method) {
        try {
            Class<?> type = Class.forName(name);
            Request request = method.equals("-") ? Request.aClass(type) : Request.method(type, method);
            Result result = new JUnitCore().run(request);
            if (!result.getFailures().isEmpty()) {
                return "fail " + oneLine(result.getFailures().get(0).getException());
            }
            boolean ran = result.getRunCount() > 0 && result.getIgnoreCount() == 0;
            return ran ? "pass" : "fail it was not run";
        } catch (Throwable e) {
            return "fail " + oneLine(e);
        }
    }

    private static String oneLine(Throwable e) {
        String text = String.valueOf(e).replace('\n', ' ').replace('\r', ' ');
        return text.length() > 300 ? text.substring(0, 300) : text;
    }
}
