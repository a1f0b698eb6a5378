import type { Redis } from 'ioredis'
import { ownSeat, type Ability, type Adapter, type Contestant } from '../../bench.ts'
import { peerContestant, versionOf, type Peer } from '../peer.ts'
import { openRedis } from './connection.ts'

export interface RedisPeer {
  /** For `--only`. */
  readonly name: string
  /** Under which the package is installed. */
  readonly dependency: string
  /** What is peculiar about how it is used here. */
  readonly about?: string
  readonly can: readonly Ability[]
  /** Over a connection that was opened for it; all names begin with the prefix. */
  readonly connect: (
    redis: Redis,
    prefix: string,
  ) => Promise<Pick<Peer, 'acquire' | 'wait' | 'keep'> & { readonly close?: () => Promise<void> }>
}

/** A library over ioredis, with the same driver and the same connection as ours. */
export function redisPeer({ name, dependency, about, can, connect }: RedisPeer): Adapter {
  const open = async (url: string, prefix: string): Promise<Contestant> => {
    const redis = await openRedis(url)
    const peer = await connect(redis, prefix)
    return peerContestant({
      ...peer,
      ...(peer.keep === undefined ? {} : { renewals: grantedScripts(redis) }),
      async close() {
        await peer.close?.()
        redis.disconnect()
      },
    })
  }
  return {
    name,
    role: 'peer',
    about: about === undefined ? versionOf(dependency) : `${versionOf(dependency)}, ${about}`,
    can,
    open: ({ url }, { space } = ownSeat()) => open(url, `${space}:`),
  }
}

/** Scripts that said yes: while leases are kept and nothing else happens these are the renewals. */
function grantedScripts(redis: Redis): () => number {
  let granted = 0
  const send = redis.sendCommand.bind(redis)
  redis.sendCommand = (...sent) => {
    const [{ name, promise }] = sent
    if (name === 'evalsha' || name === 'eval') {
      promise.then(
        (answer: unknown) => {
          if (answer !== 0 && answer !== null) granted++
        },
        () => {}, // it rejects where it was called
      )
    }
    return send(...sent)
  }
  return () => granted
}
