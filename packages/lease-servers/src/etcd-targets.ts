/**
 * Which etcd the tests run against: `ETCD_ENDPOINTS` (comma separated) names the one and only; otherwise one of a single node is
 * started, and in the matrix one of three, which costs the processor something also when nobody asks it.
 */
import { isMatrix } from './enough.ts'
import { postJson, startEtcd } from './etcd.ts'
import { ANSWER_MS, nothing, type Opened, shared, unreachable } from './targets.ts'

/**
 * What to test against. `name` is known at once; the rest from the first `before` hook on. Test files share it and nothing is
 * removed, so keys need a prefix of their own.
 */
export interface EtcdTarget {
  /** For titles: `etcd, one node`. */
  readonly name: string
  readonly endpoints: readonly string[]
}

interface Reached {
  readonly endpoints: readonly string[]
}

/**
 * What this run tests against; `nodes` leaves out the other of ours. Call it while the test file is loaded, outside of any
 * hook or test: that call is what makes the global setup start them.
 */
export function etcdTargets(nodes?: 1 | 3): readonly EtcdTarget[] {
  const outside = process.env['ETCD_ENDPOINTS']
  if (outside) return [target('etcd (ETCD_ENDPOINTS)', async () => givenEtcd(outside))]
  const one = nodes === 3 ? [] : [target('etcd, one node', async () => started(1))]
  const three = nodes === 1 || !isMatrix() ? [] : [target('etcd, three nodes', async () => started(3))]
  return [...one, ...three]
}

function target(name: string, open: () => Promise<Opened<Reached>>): EtcdTarget {
  const server = shared(name, open)
  server.ask()
  return {
    name,
    get endpoints() {
      return server.reached.endpoints
    },
  }
}

async function started(nodes: 1 | 3): Promise<Opened<Reached>> {
  const server = await startEtcd({ nodes })
  return { reached: { endpoints: server.endpoints }, stop: async () => server.stop() }
}

/** The servers that ETCD_ENDPOINTS names. @throws with a message of one line when none answers within `withinMs` */
export async function givenEtcd(text: string, withinMs: number = ANSWER_MS): Promise<Opened<Reached>> {
  const endpoints = text.split(',').map((one) => one.trim())
  try {
    await Promise.any(endpoints.map(async (one) => postJson(`${one}/v3/maintenance/status`, withinMs)))
    return { reached: { endpoints }, stop: nothing }
  } catch (cause) {
    const [first]: unknown[] = cause instanceof AggregateError ? cause.errors : [cause]
    throw unreachable('ETCD_ENDPOINTS', first)
  }
}
