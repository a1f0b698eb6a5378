/** The quick start on etcd. */
import { Etcd3 } from 'etcd3'
import { Manager, uniqueHolder } from 'lease-core'
import { etcdClient, EtcdGuard, failFast } from 'lease-etcd'

export async function etcdQuickStart(endpoints: string[]): Promise<void> {
  const etcd = new Etcd3({ hosts: endpoints, ...failFast() })
  const client = etcdClient({ etcd, namespace: 'billing' })
  const manager = new Manager({ client })

  const worker = uniqueHolder('billing') // the name of this caller: two callers with one name are one holder
  const token = await manager.claim('account-42', worker, { seconds: 30 }) // ErrClaimDenied: another holds it
  const guard = new EtcdGuard()
  await token.check(guard) // ErrNotHeld: worker does not hold it
  const result = await etcd
    .if(...guard.comparison)
    .then(etcd.put('balance/42').value(90))
    .commit()
  guard.assertHeld(result) // ErrNotHeld: the lease was lost since the check, and nothing was put
  await manager.release('account-42', worker)

  await manager.stop()
  await client.close() // the client first, then the Etcd3
  etcd.close()
}
