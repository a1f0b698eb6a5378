import { randomUUID } from 'node:crypto'
import { etcdClient } from 'lease-etcd'
import type { Adapter, Contestant, Place } from '../bench.ts'
import { openEtcd } from './etcd-connection.ts'
import { libraryContestant } from './library.ts'

/** As an application would set it up. */
export const etcdLibrary: Adapter = {
  name: 'ours',
  role: 'library',
  about: 'the Manager, default options',
  open: (place) => open(place, randomUUID()),
}

async function open(place: Place, namespace: string): Promise<Contestant> {
  const etcd = openEtcd(place.url)
  return libraryContestant({
    connect: (clock) => etcdClient({ etcd, namespace, clock }),
    atEnd: async () => etcd.close(),
    another: () => open(place, namespace),
  })
}
