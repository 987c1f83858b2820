package org.junit;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;

public class Assert {
    private static boolean same(Object a, Object b) {
        if (a == null || b == null || a == b) {
            return a == b;
        }
        if (a instanceof List && b instanceof List) {
            Object[] left = ((List<?>) a).toArray(), right = ((List<?>) b).toArray();
            boolean same = left.length == right.length;
            for (int i = 0; same && i < left.length; i++) {
                same = same(left[i], right[i]);
            }
            return same;
        }
        if (a instanceof Set && b instanceof Set) {
            return covers((Set<?>) a, (Set<?>) b) && covers((Set<?>) b, (Set<?>) a);
        }
        if (a instanceof Map && b instanceof Map) {
            return covers(((Map<?, ?>) a).entrySet(), ((Map<?, ?>) b).entrySet())
                && covers(((Map<?, ?>) b).entrySet(), ((Map<?, ?>) a).entrySet());
        }
        if (a instanceof Map.Entry && b instanceof Map.Entry) {
            Map.Entry<?, ?> left = (Map.Entry<?, ?>) a, right = (Map.Entry<?, ?>) b;
            return same(left.getKey(), right.getKey()) && same(left.getValue(), right.getValue());
        }
        return a.equals(b) && b.equals(a) && !a.equals(new Object()) && !b.equals(new Object());
    }

    private static boolean covers(Collection<?> some, Collection<?> others) {
        List<Object> left = new ArrayList<>(others);
        for (Object one : some) {
            boolean found = false;
            for (int i = 0; !found && i < left.size(); i++) {
                found = same(one, left.get(i));
                if (found) {
                    left.remove(i);
                }
            }
            if (!found) {
                return false;
            }
        }
        return left.isEmpty();
    }

    private static String both(String message, Object expected, Object actual) {
        return (message == null ? "" : message + " ") + "expected:<" + expected + "> but was:<" + actual + ">";
    }

    public static void fail(String message) {
        throw new AssertionError(message == null ? "" : message);
    }

    public static void fail() {
        fail(null);
    }

    public static void assertTrue(String message, boolean condition) {
        if (!(condition)) {
            fail(message);
        }
    }

    public static void assertTrue(boolean condition) {
        assertTrue(null, condition);
    }

    public static void assertFalse(String message, boolean condition) {
        if (!(!condition)) {
            fail(message);
        }
    }

    public static void assertFalse(boolean condition) {
        assertFalse(null, condition);
    }

    public static void assertNull(String message, Object object) {
        if (!(object == null)) {
            fail(both(message, null, object));
        }
    }

    public static void assertNull(Object object) {
        assertNull(null, object);
    }

    public static void assertNotNull(String message, Object object) {
        if (!(object != null)) {
            fail(message);
        }
    }

    public static void assertNotNull(Object object) {
        assertNotNull(null, object);
    }

    public static void assertSame(String message, Object expected, Object actual) {
        if (!(expected == actual)) {
            fail(both(message, expected, actual));
        }
    }

    public static void assertSame(Object expected, Object actual) {
        assertSame(null, expected, actual);
    }

    public static void assertNotSame(String message, Object expected, Object actual) {
        if (!(expected != actual)) {
            fail(both(message, expected, actual));
        }
    }

    public static void assertNotSame(Object expected, Object actual) {
        assertNotSame(null, expected, actual);
    }

    public static void assertEquals(String message, Object expected, Object actual) {
        if (!(same(expected, actual))) {
            fail(both(message, expected, actual));
        }
    }

    public static void assertEquals(Object expected, Object actual) {
        assertEquals(null, expected, actual);
    }

    public static void assertNotEquals(String message, Object expected, Object actual) {
        if (!(!same(expected, actual))) {
            fail(both(message, expected, actual));
        }
    }

    public static void assertNotEquals(Object expected, Object actual) {
        assertNotEquals(null, expected, actual);
    }

    public static void assertEquals(String message, long expected, long actual) {
        if (!(expected == actual)) {
            fail(both(message, expected, actual));
        }
    }

    public static void assertEquals(long expected, long actual) {
        assertEquals(null, expected, actual);
    }

    public static void assertNotEquals(String message, long expected, long actual) {
        if (!(expected != actual)) {
            fail(both(message, expected, actual));
        }
    }

    public static void assertNotEquals(long expected, long actual) {
        assertNotEquals(null, expected, actual);
    }

    public static void assertEquals(String message, double expected, double actual, double delta) {
        if (!(Double.compare(expected, actual) == 0 || Math.abs(expected - actual) <= delta)) {
            fail(both(message, expected, actual));
        }
    }

    public static void assertEquals(double expected, double actual, double delta) {
        assertEquals(null, expected, actual, delta);
    }

    public static void assertEquals(String message, float expected, float actual, float delta) {
        if (!(Float.compare(expected, actual) == 0 || Math.abs(expected - actual) <= delta)) {
            fail(both(message, expected, actual));
        }
    }

    public static void assertEquals(float expected, float actual, float delta) {
        assertEquals(null, expected, actual, delta);
    }

    public static void assertEquals(String message, double expected, double actual) {
        if (!(false)) {
            fail("use assertEquals(expected, actual, delta) to compare floating-point numbers");
        }
    }

    public static void assertEquals(double expected, double actual) {
        assertEquals(null, expected, actual);
    }

    public static void assertArrayEquals(String message, boolean[] expected, boolean[] actual) {
        if (!(java.util.Arrays.equals(expected, actual))) {
            fail(both(message, java.util.Arrays.toString(expected), java.util.Arrays.toString(actual)));
        }
    }

    public static void assertArrayEquals(boolean[] expected, boolean[] actual) {
        assertArrayEquals(null, expected, actual);
    }

    public static void assertArrayEquals(String message, byte[] expected, byte[] actual) {
        if (!(java.util.Arrays.equals(expected, actual))) {
            fail(both(message, java.util.Arrays.toString(expected), java.util.Arrays.toString(actual)));
        }
    }

    public static void assertArrayEquals(byte[] expected, byte[] actual) {
        assertArrayEquals(null, expected, actual);
    }

    public static void assertArrayEquals(String message, char[] expected, char[] actual) {
        if (!(java.util.Arrays.equals(expected, actual))) {
            fail(both(message, java.util.Arrays.toString(expected), java.util.Arrays.toString(actual)));
        }
    }

    public static void assertArrayEquals(char[] expected, char[] actual) {
        assertArrayEquals(null, expected, actual);
    }

    public static void assertArrayEquals(String message, short[] expected, short[] actual) {
        if (!(java.util.Arrays.equals(expected, actual))) {
            fail(both(message, java.util.Arrays.toString(expected), java.util.Arrays.toString(actual)));
        }
    }

    public static void assertArrayEquals(short[] expected, short[] actual) {
        assertArrayEquals(null, expected, actual);
    }

    public static void assertArrayEquals(String message, int[] expected, int[] actual) {
        if (!(java.util.Arrays.equals(expected, actual))) {
            fail(both(message, java.util.Arrays.toString(expected), java.util.Arrays.toString(actual)));
        }
    }

    public static void assertArrayEquals(int[] expected, int[] actual) {
        assertArrayEquals(null, expected, actual);
    }

    public static void assertArrayEquals(String message, long[] expected, long[] actual) {
        if (!(java.util.Arrays.equals(expected, actual))) {
            fail(both(message, java.util.Arrays.toString(expected), java.util.Arrays.toString(actual)));
        }
    }

    public static void assertArrayEquals(long[] expected, long[] actual) {
        assertArrayEquals(null, expected, actual);
    }

    private static boolean deep(Object a, Object b) {
        if (a == null || b == null || !a.getClass().isArray() || !b.getClass().isArray()) {
            return same(a, b);
        }
        int length = java.lang.reflect.Array.getLength(a);
        boolean same = length == java.lang.reflect.Array.getLength(b);
        for (int i = 0; same && i < length; i++) {
            same = deep(java.lang.reflect.Array.get(a, i), java.lang.reflect.Array.get(b, i));
        }
        return same;
    }

    public static void assertArrayEquals(String message, Object[] expected, Object[] actual) {
        if (!(deep(expected, actual))) {
            fail(both(message, java.util.Arrays.deepToString(expected), java.util.Arrays.deepToString(actual)));
        }
    }

    public static void assertArrayEquals(Object[] expected, Object[] actual) {
        assertArrayEquals(null, expected, actual);
    }

    public static void assertEquals(String message, Object[] expected, Object[] actual) {
        if (!(deep(expected, actual))) {
            fail(both(message, java.util.Arrays.deepToString(expected), java.util.Arrays.deepToString(actual)));
        }
    }

    public static void assertEquals(Object[] expected, Object[] actual) {
        assertEquals(null, expected, actual);
    }

    public static void assertArrayEquals(String message, double[] expected, double[] actual, double delta) {
        boolean same = expected == actual || expected != null && actual != null && expected.length == actual.length;
        for (int i = 0; same && expected != actual && i < expected.length; i++) {
            same = Objects.equals(expected[i], actual[i]) || Math.abs(expected[i] - actual[i]) <= delta;
        }
        if (!same) {
            fail(both(message, java.util.Arrays.toString(expected), java.util.Arrays.toString(actual)));
        }
    }

    public static void assertArrayEquals(double[] expected, double[] actual, double delta) {
        assertArrayEquals(null, expected, actual, delta);
    }

    public static void assertArrayEquals(String message, float[] expected, float[] actual, float delta) {
        boolean same = expected == actual || expected != null && actual != null && expected.length == actual.length;
        for (int i = 0; same && expected != actual && i < expected.length; i++) {
            same = Objects.equals(expected[i], actual[i]) || Math.abs(expected[i] - actual[i]) <= delta;
        }
        if (!same) {
            fail(both(message, java.util.Arrays.toString(expected), java.util.Arrays.toString(actual)));
        }
    }

    public static void assertArrayEquals(float[] expected, float[] actual, float delta) {
        assertArrayEquals(null, expected, actual, delta);
    }
}
