import java.util.Hashtable;
import java.util.TreeSet;
import javax.naming.Context;
import javax.naming.NameNotFoundException;
import javax.naming.directory.Attribute;
import javax.naming.directory.DirContext;
import javax.naming.directory.InitialDirContext;

/** Java's own resolver (JNDI). */
public class Resolve {
    private static DirContext context;

    public static void main(String[] args) throws Exception {
        Hashtable<String, String> environment = new Hashtable<>();
        environment.put(Context.INITIAL_CONTEXT_FACTORY, "com.sun.jndi.dns.DnsContextFactory");
        environment.put(Context.PROVIDER_URL, "dns://" + args[0]);
        context = new InitialDirContext(environment);
        System.out.println("api.devbox.test " + all("api.devbox.test", "A").first() + " " + address(all("api.devbox.test", "AAAA").first()));
        System.out.println("v4.devbox.test " + all("v4.devbox.test", "A").first());
        if (!all("v4.devbox.test", "AAAA").isEmpty()) {
            throw new IllegalStateException("an IPv6 address from nowhere");
        }
        System.out.println("many.devbox.test " + all("many.devbox.test", "A").size());
        String[] service = all("_pg._tcp.devbox.test", "SRV").first().split(" ");
        System.out.println("srv " + withoutDot(service[3]) + ":" + service[2]);
        System.out.println("txt " + all("_pg._tcp.devbox.test", "TXT").first());
        System.out.println("ptr " + withoutDot(all("4.0.77.127.in-addr.arpa", "PTR").first()));
        try {
            all("nobody.devbox.test", "A");
        } catch (NameNotFoundException missing) {
            System.out.println("nobody.devbox.test none");
        }
    }

    private static TreeSet<String> all(String name, String type) throws Exception {
        TreeSet<String> found = new TreeSet<>();
        Attribute attribute = context.getAttributes(name, new String[] {type}).get(type);
        for (int i = 0; attribute != null && i < attribute.size(); i++) {
            found.add(attribute.get(i).toString());
        }
        return found;
    }

    private static String address(String text) throws Exception {
        return text.equals("fd00:0:0:0:0:0:0:2") ? "fd00::2" : text;
    }

    private static String withoutDot(String name) {
        return name.endsWith(".") ? name.substring(0, name.length() - 1) : name;
    }
}
