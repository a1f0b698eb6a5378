/** The first mistakes that everybody makes: nothing waits in silence. */
import { expect } from 'chai'
import { Etcd3 } from 'etcd3'
import { Manager } from 'lease-core'
import { etcdClient, failFast } from 'lease-etcd'
import { caught, failsForSetUp, leavesNoTimer } from 'lease-scenes'
import { startEtcd } from 'lease-servers'
import { openSetting } from './setting.ts'

describe('a set-up that cannot work, on etcd', () => {
  it('fails at once where the password is wrong, there is none, or the user lacks the rights', async () => {
    await using server = await startEtcd()
    await using setting = openSetting(server)
    const { etcd } = setting
    for (const name of ['root', 'app']) {
      await etcd.role(name).create()
      await etcd.user(name).create('right')
      await etcd.user(name).addRole(name)
    }
    await etcd.auth.authEnable()
    const over = (auth: { username: string; password: string } | undefined, words: RegExp): Promise<void> =>
      failsForSetUp(etcdClient({ etcd: setting.newEtcd(auth && { auth }), namespace: 'ns' }), words)
    await over({ username: 'app', password: 'wrong' }, /etcd refused the credentials/)
    await over(undefined, /etcd does not know who this is/)
    await over({ username: 'app', password: 'right' }, /this user of etcd lacks a right/)
  })
})

describe('a short job, on etcd', () => {
  it('leaves no timer behind where it holds, releases, stops and closes at once', async () => {
    await using server = await startEtcd()
    await using setting = openSetting(server)
    await leavesNoTimer((clock) => etcdClient({ etcd: setting.etcd, namespace: 'ns', clock }))
  })
})

describe('an address of etcd that is none', () => {
  it('fails at once, and shows one that is', async () => {
    const etcd = new Etcd3({ ...failFast(), hosts: 'http://127.0.0.1:2379/' })
    await failsForSetUp(etcdClient({ etcd, namespace: 'ns' }), /hosts are such as http:\/\/127/)
    etcd.close()
  })
})

describe('etcd that is away', () => {
  it('is named by a claim that has no answer, and nothing of it may have happened', async () => {
    const etcd = new Etcd3({ ...failFast(), hosts: 'http://127.0.0.1:1' }) // nobody listens there
    const client = etcdClient({ etcd, namespace: 'away', requestTimeout: { seconds: 1 } })
    const manager = new Manager({ client })
    const { message } = await caught(manager.claim('a', 'me', { seconds: 5 }))
    expect(message)
      .to.match(/ECONNREFUSED|cannot be reached/)
      .and.not.include('may have happened')
    await manager.stop()
    await client.close()
    etcd.close()
  })
})
