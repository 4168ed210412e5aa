"""Settings of trainings that take seconds: 4 steps an epoch on the digits."""

FAST = {
    # an ordinary network in place of RedNet: these tests are about the engine
    "model.name": "test_resnet",
    "data.image_size": 8,
    "data.batch_size": 256,
    # turning and shifting each image takes longer than all else; mirroring is drawn anew each time as they are
    "augment.rotate": 0.0,
    "augment.translate": 0.0,
    "augment.scale": [1.0, 1.0],
    "augment.shear": 0.0,
    "augment.flip": 0.1,
    "trainer.epochs": 2,
    "schedule.warmup_epochs": 0,
    "optimizer.lr": 0.01,
}
