/** One of several servers runs the scheduler. Every server knows its address. */
import type { Manager } from 'lease-core'
import { election, type ElectionNode } from 'lease-recipes'

/** Joins the election. Runs the scheduler while this server leads; its signal aborts when that ends. */
export async function joinCluster(
  manager: Manager,
  address: string,
  runScheduler: (signal: AbortSignal, fencingToken: bigint) => Promise<void>,
): Promise<ElectionNode> {
  const locker = election({ manager })
  const node = locker('/scheduler', { value: address, ttl: { seconds: 10 } })

  node.on('change', (address) => console.log(`the scheduler is at ${address ?? 'no address'}`))
  node.on('select', (_value, _id, { signal, fencingToken }) => runScheduler(signal, fencingToken))

  await node.start() // from now on node.value() is the address of the scheduler
  return node
}

/** Watches the leader and never competes, as a load balancer would. */
export async function followLeader(
  manager: Manager,
  route: (address?: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const watcher = election({ manager })('/scheduler', { candidate: false })
  for await (const leader of watcher.observe({ signal })) route(leader?.value)
}
