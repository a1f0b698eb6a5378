/** What may befall a Redis that Sentinels watch. */
import { type Redis, redisCommand, type RedisSentinel, until } from 'lease-servers'
import { between, fault, type Fault, lasting, oneOf, some, type Span } from './strike.ts'

/** @param pauses how long a server may stand still without a failover */
export function sentinelNemeses(watched: RedisSentinel, pauses: Span): readonly Fault[] {
  const isReplicated = async (): Promise<void> => {
    await until('a replica has what the master has', async () => replicates(watched))
  }
  return [
    // Short of the time after which it would be thought down; a machine that is slow may promote all the same: see the log.
    fault('server-pause', { breaks: 'server', lasts: pauses }, async () => {
      const master = await masterOf(watched)
      master.pause()
      return () => master.resume()
    }),
    fault('sentinel-failover', { breaks: 'server', lasts: { fromMs: 0, toMs: 500 }, isControl: true }, async () => {
      const before = await watched.masterPort()
      const [sentinel] = watched.sentinels
      if (sentinel !== undefined) {
        // Refused while another failover is under way, or nobody is fit for it: then there is one soon.
        await until('the Sentinels fail over', async () =>
          redisCommand(sentinel, 'SENTINEL', 'FAILOVER', watched.name).then(
            () => true,
            async () => (await watched.masterPort()) !== before,
          ),
        )
      }
      await until('another master', async () => (await watched.masterPort().catch(() => before)) !== before, 20)
      return isReplicated
    }),
    fault(
      'sentinel-kill-master',
      { breaks: 'server', lasts: { fromMs: 0, toMs: 500 }, isControl: true },
      async (battle, say) => {
        const way = oneOf(battle, ['kill', 'freeze', 'cut and kill', 'cut and freeze'])
        say(way)
        const before = await watched.masterPort()
        const master = await masterOf(watched)
        if (way.startsWith('cut')) {
          await watched.cutReplication()
          await lasting(battle, between(battle, { fromMs: 100, toMs: 1000 }))
        }
        if (way.endsWith('kill')) await master.kill()
        else master.pause()
        await until(
          'a replica is promoted',
          async () => (await watched.masterPort().catch(() => before)) !== before,
          20,
        )
        return async () => {
          if (way.endsWith('kill')) await master.restart()
          else master.resume()
          await watched.mendReplication()
          await isReplicated()
        }
      },
    ),
    fault('sentinel-pause', { breaks: 'server', lasts: { fromMs: 200, toMs: 3000 } }, (battle) => {
      const [sentinel] = some(battle, watched.sentinelServers, 1)
      sentinel?.pause()
      return () => sentinel?.resume()
    }),
    fault('sentinel-restart', { breaks: 'server', lasts: { fromMs: 0, toMs: 500 } }, async (battle) => {
      const [sentinel] = some(battle, watched.sentinelServers, 1)
      await sentinel?.kill()
      return async () => sentinel?.restart()
    }),
    fault('replica-pause', { breaks: 'server', lasts: { fromMs: 200, toMs: 3000 } }, async () => {
      const replicas = await replicasOf(watched)
      for (const replica of replicas) replica.pause()
      return async () => {
        for (const replica of replicas) replica.resume()
        await isReplicated()
      }
    }),
    fault('replication-cut', { breaks: 'server', lasts: { fromMs: 200, toMs: 2000 } }, async () => {
      await watched.cutReplication()
      return async () => {
        await watched.mendReplication()
        await isReplicated()
      }
    }),
  ]
}

/** The server that the Sentinels call the master now. */
export async function masterOf(watched: RedisSentinel): Promise<Redis> {
  const port = await watched.masterPort()
  return [watched.master, ...watched.replicas].find((server) => server.port === port) ?? watched.master
}

async function replicasOf(watched: RedisSentinel): Promise<readonly Redis[]> {
  const master = await masterOf(watched)
  return [watched.master, ...watched.replicas].filter((server) => server !== master)
}

/** Whether all others follow the master and have what it has, and a Sentinel could fail over. */
export async function replicates(watched: RedisSentinel): Promise<boolean> {
  const host = '127.0.0.1'
  try {
    const master = await masterOf(watched)
    const role = await redisCommand({ host, port: master.port }, 'ROLE')
    if (!Array.isArray(role) || role[0] !== 'master') return false
    const roles = await Promise.all(
      (await replicasOf(watched)).map(async ({ port }) => redisCommand({ host, port }, 'ROLE')),
    )
    return roles.every(
      (one) =>
        Array.isArray(one) && one[2] === master.port && one[3] === 'connected' && Number(one[4]) >= Number(role[1]),
    )
  } catch {
    return false
  }
}
