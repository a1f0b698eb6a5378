import { createRequire } from 'node:module'
import { ownSeat, type Adapter, type Contestant } from '../../bench.ts'
import { oneConnectionEach } from './pool.ts'
import { peerContestant, versionOf, type PeerLock } from '../peer.ts'

type Unlock = () => Promise<void>

interface Mutex {
  lock(): Promise<Unlock>
  tryLock(): Promise<Unlock | undefined>
}

/** A connection is opened for each lock, and closed with it. */
export const advisoryLock: Adapter = {
  name: 'advisory-lock',
  role: 'peer',
  about: `${versionOf('advisory-lock')}: a connection for each lock`,
  can: ['one', 'queue'],
  atMost: 256,
  waiters: oneConnectionEach,
  open: ({ url }, { space } = ownSeat()) => open(url, `${space}:`),
}

async function open(url: string, prefix: string): Promise<Contestant> {
  const require = createRequire(import.meta.url) // a CommonJS module whose default export is one of several
  const { default: advisoryLock } = require('advisory-lock') as { default: (url: string) => (name: string) => Mutex }
  const mutexOf = advisoryLock(url)
  const locked = (unlock: Unlock | undefined): PeerLock => {
    if (unlock === undefined) throw new Error('it is taken')
    return { release: unlock }
  }
  return peerContestant({
    acquire: async (lease) => locked(await mutexOf(prefix + lease).tryLock()),
    wait: async (lease) => locked(await mutexOf(prefix + lease).lock()),
    close: async () => {},
  })
}
