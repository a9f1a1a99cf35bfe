// Node's resolver (c-ares).
import { Resolver } from 'node:dns/promises';

const resolver = new Resolver({ timeout: 5000, tries: 2 });
resolver.setServers([process.argv[2]]);
const none = (error) => {
  if (error.code !== 'ENODATA') throw error;
  return [];
};
for (const name of ['api.devbox.test', 'v4.devbox.test']) {
  const found = [...(await resolver.resolve4(name)), ...(await resolver.resolve6(name).catch(none))];
  console.log(name, found.join(' '));
}
console.log('many.devbox.test', (await resolver.resolve4('many.devbox.test')).length);
const [service] = await resolver.resolveSrv('_pg._tcp.devbox.test');
console.log(`srv ${service.name}:${service.port}`);
console.log('txt', (await resolver.resolveTxt('_pg._tcp.devbox.test'))[0].join(''));
console.log('ptr', (await resolver.reverse('127.77.0.4'))[0]);
await resolver.resolve4('nobody.devbox.test').catch((error) => {
  if (error.code === 'ENOTFOUND') console.log('nobody.devbox.test none');
});
