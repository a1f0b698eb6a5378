/** Servers of which one runs the scheduler; all of them can tell a client where it is. */
import type { Manager } from 'lease-core'
import { election, type ElectionNode } from 'lease-recipes'

/** Joins the election. The scheduler is run while this server leads: until its signal aborts. */
export async function joinCluster(
  manager: Manager,
  address: string,
  runScheduler: (signal: AbortSignal, fencingToken: bigint) => Promise<void>,
): Promise<ElectionNode> {
  const locker = election({ manager })
  const node = locker('/scheduler', { value: address, ttl: { seconds: 10 } })

  node.on('change', (address) => console.log(`the scheduler is at ${address ?? 'no address'}`))
  node.on('select', (_value, _id, { signal, fencingToken }) => runScheduler(signal, fencingToken))

  await node.start() // from here on node.value() is where the scheduler is
  return node
}

/** Follows the leader without being one, as a load balancer would. */
export async function followLeader(
  manager: Manager,
  route: (address?: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const watcher = election({ manager })('/scheduler', { candidate: false })
  for await (const leader of watcher.observe({ signal })) route(leader?.value)
}
