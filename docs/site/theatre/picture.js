/* Two ways to draw a Stage: in space by three.js, and as a stick figure where the browser has no WebGL. */
import * as THREE from "three";

const SPHERE = 2, CAPSULE = 3; // mjtGeom; the four robots have no other solid shapes
const TORSO = 1; // the body that the camera follows

/* Centres, half axes and radii of the capsules and spheres that a robot is made of. */
function* limbs({ model, data }) {
  for (let g = 0; g < model.ngeom; g++) {
    const type = model.geom_type[g];
    if (type !== SPHERE && type !== CAPSULE) continue;
    const half = type === CAPSULE ? model.geom_size[3 * g + 1] : 0;
    const centre = Array.from(data.geom_xpos.subarray(3 * g, 3 * g + 3));
    const axis = [2, 5, 8].map((k) => half * data.geom_xmat[9 * g + k]);
    yield { g, centre, axis, half, radius: model.geom_size[3 * g] };
  }
}

function checker() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#9aa3ad";
  pen.fillRect(0, 0, 64, 64);
  pen.fillStyle = "#818b96";
  pen.fillRect(0, 0, 32, 32);
  pen.fillRect(32, 32, 32, 32);
  const texture = new THREE.CanvasTexture(canvas);
  texture.wrapS = texture.wrapT = THREE.RepeatWrapping;
  texture.repeat.set(30, 30); // tiles of 1 m on a floor of 60 m
  texture.anisotropy = 4;
  return texture;
}

/* Draws by WebGL into `canvas`; throws where there is none. */
export class Scene {
  constructor(canvas) {
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(38, 2, 0.1, 100);
    this.camera.up.set(0, 0, 1);
    const sun = new THREE.DirectionalLight(0xffffff, 2.2);
    sun.position.set(-2, -4, 6);
    this.scene.add(new THREE.HemisphereLight(0xffffff, 0x667788, 1.6), sun);
    this.floor = new THREE.Mesh(new THREE.PlaneGeometry(60, 60), new THREE.MeshLambertMaterial({ map: checker() }));
    const start = new THREE.Mesh(new THREE.PlaneGeometry(0.06, 60), new THREE.MeshBasicMaterial({ color: 0xd55e00 }));
    start.position.z = 0.004;
    this.scene.add(this.floor, start);
    this.meshes = [];
  }

  /* Build the robot's shapes anew: on a change of family. */
  cast(stage) {
    for (const { mesh } of this.meshes) {
      this.scene.remove(mesh);
      mesh.geometry.dispose();
    }
    this.material?.dispose();
    this.material = new THREE.MeshStandardMaterial({ roughness: 0.55 });
    this.meshes = [...limbs(stage)].map(({ g, half, radius }) => {
      const shape = half ? new THREE.CapsuleGeometry(radius, 2 * half, 6, 14) : new THREE.SphereGeometry(radius, 20, 14);
      if (half) shape.rotateX(Math.PI / 2); // three's capsules stand along y, MuJoCo's along z
      const mesh = new THREE.Mesh(shape, this.material);
      this.scene.add(mesh);
      return { g, mesh };
    });
  }

  draw(stage, colour) {
    const { data } = stage;
    const { clientWidth: width, clientHeight: height } = this.renderer.domElement;
    if (!width) return;
    if (this.width !== width || this.height !== height) {
      [this.width, this.height] = [width, height];
      this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
      this.renderer.setSize(width, height, false);
      this.camera.aspect = width / height;
      this.camera.updateProjectionMatrix();
    }
    this.material.color.set(colour);
    for (const { g, mesh } of this.meshes) {
      const m = data.geom_xmat.subarray(9 * g, 9 * g + 9);
      const p = data.geom_xpos.subarray(3 * g, 3 * g + 3);
      mesh.matrixAutoUpdate = false;
      mesh.matrix.set(m[0], m[1], m[2], p[0], m[3], m[4], m[5], p[1], m[6], m[7], m[8], p[2], 0, 0, 0, 1);
    }
    const [x, y] = data.xpos.subarray(3 * TORSO);
    this.floor.position.set(2 * Math.round(x / 2), 2 * Math.round(y / 2), 0);
    this.camera.position.set(x + 0.5, y - 3.6, 1.35);
    this.camera.lookAt(x, y, 0.6);
    this.renderer.render(this.scene, this.camera);
  }

  free() {
    this.renderer.dispose();
    this.renderer.forceContextLoss();
  }
}

/* The same robot seen from the side, drawn line by line on a plain canvas. */
export class Sticks {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
  }

  cast() {}

  draw(stage, colour) {
    const ratio = Math.min(window.devicePixelRatio, 2);
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!width) return;
    if (this.canvas.width !== width * ratio) Object.assign(this.canvas, { width: width * ratio, height: height * ratio });
    const scale = height / 2.4, x0 = stage.data.xpos[3 * TORSO];
    const to = (x, z) => [width / 2 + scale * (x - x0), height - scale * (z + 0.35)];
    const pen = this.pen;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = pen.strokeStyle = getComputedStyle(this.canvas).color;
    pen.lineWidth = 1;
    pen.font = "11px sans-serif";
    const span = width / 2 / scale;
    for (let x = Math.ceil(x0 - span); x <= x0 + span; x++) {
      const [u, v] = to(x, 0);
      pen.fillRect(u, v, 1, 5);
      pen.fillText(`${x} m`, u - 8, v + 17);
    }
    pen.fillRect(0, to(0, 0)[1], width, 1);
    pen.strokeStyle = colour;
    pen.lineCap = "round";
    for (const { centre, axis, radius } of limbs(stage)) {
      pen.lineWidth = Math.max(2, 2 * scale * radius);
      pen.beginPath();
      pen.moveTo(...to(centre[0] - axis[0], centre[2] - axis[2]));
      pen.lineTo(...to(centre[0] + axis[0], centre[2] + axis[2]));
      pen.stroke();
    }
  }

  free() {}
}
