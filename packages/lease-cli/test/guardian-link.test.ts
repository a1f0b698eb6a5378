import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { expect } from 'chai'
import { until } from 'lease-servers'
import { GuardianLink } from '#src/guardian-link.ts'

describe('the link between lease exec and its guardian', () => {
  it('carries whole messages, however they are cut on the way, and says when the other end is gone', async () => {
    const server = createServer()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const accepted = once(server, 'connection') as Promise<[Socket]>
    const here = connect((server.address() as AddressInfo).port, '127.0.0.1')
    const [there] = await accepted
    const heard: unknown[] = []
    let closed = 0
    const link = new GuardianLink<object, object>(there)
    link.listen(
      (message) => heard.push(message),
      () => closed++,
    )
    here.setNoDelay(true)
    here.write('{"kind":"fir')
    await until('the first part has come', () => there.bytesRead > 0)
    here.write('st"}\n{"kind":"second"}\n{"kind":"thi')
    await until('two messages', () => heard.length === 2)
    here.write('rd","text":"ä\\n"}\n')
    await until('three messages', () => heard.length === 3)
    expect(heard).to.deep.equal([{ kind: 'first' }, { kind: 'second' }, { kind: 'third', text: 'ä\n' }])
    here.destroy()
    await until('the end', () => closed > 0)
    link.send({ kind: 'too late' }) // harms nobody
    expect(closed).to.equal(1)
    server.close()
  })
})
