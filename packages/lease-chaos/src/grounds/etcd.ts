/** etcd with one member, or with three. */
import { startEtcd } from 'lease-servers'
import type { Ground, Loss, Reach } from '../ground.ts'
import { connectionNemeses } from '../nemeses/connections.ts'
import { etcdMemberNemeses, etcdNemeses, etcdRestore } from '../nemeses/etcd.ts'
import { kill, pause, restart } from '../nemeses/server.ts'
import { assembled, type GroundOptions, inParts } from './assemble.ts'
import type { RemoteProxy } from './proxies.ts'
import { Ways } from './ways.ts'

export async function openEtcd(nodes: 1 | 3, options: GroundOptions): Promise<Ground> {
  return await inParts(async (stack) => {
    const ways = stack.use(await Ways.open(options.compiler))
    const peers: RemoteProxy[] = []
    const peerVia = async (url: string): Promise<string> => {
      const proxy = await ways.processes.open(url, true)
      peers.push(proxy)
      return proxy.url(url)
    }
    const etcd = stack.use(await startEtcd({ nodes, durable: true, ...(nodes === 3 && { peerVia }) }))
    const { namespace } = options
    const losses: Loss[] = []
    return assembled({
      name: nodes === 1 ? 'etcd' : 'etcd3',
      ways,
      stack,
      losses: () => losses,
      judge: { kind: 'etcd', url: etcd.endpoints.join(','), namespace },
      async reach(worker): Promise<Reach> {
        const { urls, env } = await ways.add(worker, etcd.endpoints)
        return { kind: 'etcd', url: urls.join(','), namespace, env }
      },
      faults: [
        pause('server-pause', () => etcd),
        kill('server-kill', () => etcd),
        restart('server-restart', () => etcd),
        ...connectionNemeses(() => ways.proxies),
        ...etcdNemeses(etcd),
        // A port that was taken makes etcd start again with others: its last proxies are those in use.
        ...(nodes === 3
          ? etcdMemberNemeses(etcd, peers.slice(-nodes))
          : [etcdRestore(etcd, (loss) => void losses.push(loss))]),
      ],
    })
  })
}
