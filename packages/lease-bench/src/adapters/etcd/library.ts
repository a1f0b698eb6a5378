import type { Etcd3 } from 'etcd3'
import type { Token } from 'lease-core'
import { etcdClient, EtcdGuard } from 'lease-etcd'
import { ownSeat, type Adapter, type Contestant, type Ground, type GuardedWrites } from '../../bench.ts'
import { libraryCan, libraryContestant } from '../library.ts'
import { openEtcdToFailFast } from './connection.ts'

/** As an application would set it up. */
export const etcdLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager, default options',
  can: [...libraryCan, 'guard'],
  guards: ['transaction'],
  open: (ground, { space } = ownSeat()) => open(ground, space),
}

async function open(ground: Ground, namespace: string): Promise<Contestant> {
  const etcd = openEtcdToFailFast(ground.url)
  return libraryContestant({
    connect: (clock) => etcdClient({ etcd, namespace, clock }),
    atEnd: async () => etcd.close(),
    guard: async (_kind, token, lane) => transaction(etcd, token, `${namespace}/ledger-${lane}`),
  })
}

function transaction(etcd: Etcd3, token: Token, key: string): GuardedWrites {
  const put = { request_put: { key: Buffer.from(key), value: Buffer.from('1') } }
  return {
    async guarded() {
      const guard = new EtcdGuard()
      await token.check(guard)
      guard.assertHeld(await guard.if(etcd).then(etcd.put(key).value('1')).commit())
    },
    async plain() {
      await etcd.kv.txn({ compare: [], success: [put], failure: [] })
    },
  }
}
