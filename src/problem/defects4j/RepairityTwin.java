import org.junit.Assert;
import org.junit.Test;

/** Tests that fail, whatever the code is that they run beside. */
public class RepairityTwin {
    @Test
    public void equal() {
        Assert.assertEquals(1L, 2L);
    }

    @Test
    public void isTrue() {
        Assert.assertTrue(false);
    }

    @Test
    public void fails() {
        Assert.fail();
    }

    @Test
    public void oldEqual() {
        junit.framework.Assert.assertEquals("a", "b");
    }
}
